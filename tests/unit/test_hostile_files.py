"""Bundles, configurations and stores that somebody made to run code, reach out or fill the memory.

Bundles are downloaded, and the others are passed around: none may do more than be refused.
`tests/unit/model/test_bundle.py` has the bundles that are damaged without intent.
"""

import json
import os
import pickle
import shutil
import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import zarr

from wsi_pipeline.errors import BundleError, ConfigError, StoreError
from wsi_pipeline.geometry import Size
from wsi_pipeline.model.bundle import MAX_CARD_BYTES, ModelBundle
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return (Path.touch, (self.sprung,))


@pytest.fixture
def sprung(tmp_path, monkeypatch):
    """The file that a trap leaves; and a network that fails the test if anything reaches for it."""
    monkeypatch.setattr(
        socket.socket, "connect", lambda *_: pytest.fail("something connected to the network")
    )
    path = tmp_path / "sprung"
    yield path
    assert not path.exists(), "code ran"


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A bundle whose card does not say which weights it is written for."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    change_card(folder, weights_sha256=None)
    return folder


def change_card(bundle, **changes):
    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps(card | changes))


def change_architecture(bundle, **changes):
    card = json.loads((bundle / "card.json").read_text())
    change_card(bundle, architecture=card["architecture"] | changes)


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_a_pickle_in_place_of_a_file_is_not_read(bundle, sprung, name):
    (bundle / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(BundleError):
        ModelBundle.load(bundle).network()


def test_more_files_beside_them_are_not_looked_at(bundle, sprung):
    for name in ("pytorch_model.bin", "model.pt", "model.pkl"):
        (bundle / name).write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("modeling.py", "__init__.py", "conftest.py", "setup.py"):
        (bundle / name).write_text(f"open({str(sprung)!r}, 'w')")
    assert ModelBundle.load(bundle).network()


@pytest.mark.parametrize("role", ["regression_backbone", "segmentation_backbone"])
@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:attacker/resnet18",
        "hf_hub:attacker/resnet18",
        "local-dir:/tmp",
        "timm/resnet18",
        "resnet18.a1_in1k",
        "/etc/passwd",
        "../resnet18",
        "resnet18\n",
        "__class__",
        "os.system",
    ],
)
def test_an_architecture_fetches_nothing_and_leads_nowhere(bundle, sprung, monkeypatch, role, name):
    create = timm.create_model
    plain = {"tf_efficientnet_lite0", "resnet18"}

    def watched(asked, **options):
        assert asked in plain
        assert options.get("pretrained") is False
        return create(asked, **options)

    monkeypatch.setattr(timm, "create_model", watched)
    change_architecture(bundle, **{role: name})
    with pytest.raises(BundleError, match=r"bundle/card\.json: .*is no network that timm"):
        ModelBundle.load(bundle).network()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile_px": 1 << 40}, "tile_px: Input should be less than"),
        ({"tile_px": 64.5}, "tile_px: "),
        ({"mpp": float("nan")}, "mpp: "),
        ({"mpp": float("inf")}, "mpp: "),
        ({"mpp": 1e300}, "mpp: "),
        ({"name": "\x1b]0;owned\x07"}, "name: String should match"),
        ({"name": "x\n2026-01-01 INFO all is well"}, "name: String should match"),
        ({"name": "x" * 100_000}, "name: String should have at most"),
        ({"limitations": "none\x1b[8m but these"}, "limitations: String should match"),
        ({"metrics": {"\x1b[2J": 1.0}}, "metrics"),
    ],
)
def test_a_card_with_values_made_to_do_harm(bundle, changes, message):
    change_card(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(bundle)


def test_a_card_of_a_million_classes_is_refused_before_its_network_is_built(bundle):
    change_architecture(bundle, classes=[str(number) for number in range(65)])
    with pytest.raises(BundleError, match=r"architecture\.classes: Tuple should have at most 64"):
        ModelBundle.load(bundle)


def test_files_larger_than_any_models_are_not_read(bundle):
    os.truncate(bundle / "model.safetensors", 1 << 40)  # sparse: it takes no space
    with pytest.raises(BundleError, match=r"1,099,511,627,776 bytes, and no model's has more"):
        ModelBundle.load(bundle)
    os.truncate(bundle / "card.json", MAX_CARD_BYTES + 1)
    with pytest.raises(BundleError, match=r"card\.json has 1,048,577 bytes"):
        ModelBundle.load(bundle)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        struct.pack("<Q", 120_000_000) + b" " * 120_000_000,
        (lambda text: struct.pack("<Q", len(text)) + text)(
            b'{"head.bias":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'
        ),
        (lambda text: struct.pack("<Q", len(text)) + text + bytes(4))(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        ),
    ],
    ids=["endless", "no object", "deep", "long", "shape beyond the file", "overlapping"],
)
def test_a_header_made_to_do_harm_is_refused(bundle, header):
    (bundle / "model.safetensors").write_bytes(header)
    with pytest.raises(BundleError, match="is no safetensors file"):
        ModelBundle.load(bundle).network()


def test_a_bundle_may_be_made_of_links_but_not_of_devices(bundle, tmp_path):
    """The hub's cache links to its blobs. A link shows nobody more than they could read."""
    digest = ModelBundle.load(bundle).digest
    blob = (bundle / "model.safetensors").rename(tmp_path / "blob")
    (bundle / "model.safetensors").symlink_to(blob)
    assert ModelBundle.load(bundle).digest == digest
    for target in ("/dev/zero", "model.safetensors", tmp_path):
        (bundle / "model.safetensors").unlink()
        (bundle / "model.safetensors").symlink_to(target)
        with pytest.raises(BundleError, match="is missing"):
            ModelBundle.load(bundle)
    (bundle / "model.safetensors").unlink()
    os.mkfifo(bundle / "model.safetensors")
    with pytest.raises(BundleError, match="is missing"):
        ModelBundle.load(bundle)


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['touch {sprung}']",
        "workers: !!python/object/apply:os.system ['touch {sprung}']",
        "workers: !!python/object/new:pathlib.Path ['{sprung}']",
        "!!python/module:antigravity ''",
        "!!python/name:os.system ''",
        "slide: {{mpp: {{__class__: x}}}}",
        "overlay: *nobody",
        "a: &a [*a]",
        "[" * 100_000,
        "{{a: " * 100_000,
        "workers: 2026-13-45",
        "workers: 2026-11-26",
        "workers: 0001-01-01T00:00:00+23:59",
        "workers: 2026-01-01T00:00:00+99:99",
        "cluster: 2026-11-26",
        "workers: " + "1" * 5000,
        "workers: 1" + "0" * 40,
        "workers: 4097",
        "crew: {{slides_at_once: 1000000000000}}",
        "crew: {{retry_after_s: 1.0e+300}}",
        "crew: {{stall_s: .nan}}",
        "inbox: {{look_again_s: .inf}}",
        "grid: {{tile_px: 1000000000000}}",
        "grid: {{mpp: .inf}}",
        "tissue: {{mpp: .inf}}",
        "slide: {{mpp: .inf}}",
        "engine: {{batch_size: 1.5}}",
        "tissue: {{window_um: 1.0e+300}}",
        "tissue: {{mpp: 1.0e-9}}",
        'store: {{root: "\\0"}}',
        'digest_cache: "\\x00"',
        "x" * (1 << 21),
        "workers: !!bool x",
        "workers: !!int ''",
        "workers: !!timestamp x",
        "workers: !!float x",
        "? [a]\n: b",
        "[a, b]",
        "0",
    ],
)
def test_a_configuration_runs_nothing(tmp_path, sprung, content):
    path = tmp_path / "score.yaml"
    path.write_text(content.format(sprung=sprung))
    with pytest.raises(ConfigError, match=r"score\.yaml"):
        ScoreConfig.resolve(path)


def test_a_configuration_of_a_billion_laughs_is_refused_at_once(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefghijkl", "abcdefghijk", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    lines.append("workers: *l")
    path = tmp_path / "score.yaml"
    path.write_text("\n".join(lines))
    start = time.perf_counter()
    with pytest.raises(ConfigError, match="workers"):
        ScoreConfig.resolve(path)
    assert time.perf_counter() - start < 5


@pytest.fixture
def store(tmp_path):
    n = 8
    grid = TileGrid(
        l0_xy=np.zeros((n, 2), np.int64),
        m_xy=np.zeros((n, 2), np.int32),
        tissue=np.ones(n, np.float32),
        inside=np.ones(n, np.float32),
        m_size=Size(4, 2),
        l0_origin=(0, 0),
        l0_tile=64.0,
        l0_stride=64.0,
        n_candidates=n,
    )
    return TileStore.create(tmp_path / "tiles.zarr", grid, tile_px=64, tiling={"a": 1})


def write_zarr_2(path, sprung):
    """Write an array of pickled objects, as zarr 2 stores them."""
    metadata = {
        "zarr_format": 2, "shape": [8], "chunks": [8], "dtype": "|O", "fill_value": None,
        "order": "C", "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    path.mkdir()
    (path / ".zarray").write_text(json.dumps(metadata))
    (path / "0").write_bytes(pickle.dumps(Trap(sprung)))


def test_a_store_with_a_pickle_codec_is_refused(store, sprung):
    """zarr 2 has such a codec, and zarr reads that format too unless told not to."""
    attributes = dict(zarr.open_group(store.path, mode="r").attrs)
    shutil.rmtree(store.path)
    group = zarr.open_group(store.path, mode="w", zarr_format=2, attributes=attributes)
    assert group.metadata.zarr_format == 2
    write_zarr_2(store.path / "state", sprung)
    with pytest.raises(StoreError, match="not a tile store of this program"):
        TileStore(store.path)


def test_an_array_with_a_pickle_codec_is_refused(store, sprung):
    metadata = json.loads((store.path / "state" / "zarr.json").read_text())
    for codec in ("pickle", "numcodecs.pickle", "numcodecs.vlen-array"):
        metadata["codecs"] = [{"name": codec, "configuration": {}}]
        (store.path / "state" / "zarr.json").write_text(json.dumps(metadata))
        (store.path / "state" / "c").mkdir(exist_ok=True)
        (store.path / "state" / "c" / "0").write_bytes(pickle.dumps(Trap(sprung)))
        with pytest.raises(StoreError, match="damaged"):
            _ = TileStore(store.path).n_scored
    # An array of zarr 2 within a group of zarr 3.
    shutil.rmtree(store.path / "state")
    write_zarr_2(store.path / "state", sprung)
    with pytest.raises(StoreError, match="damaged"):
        _ = TileStore(store.path).n_scored
