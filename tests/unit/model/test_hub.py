"""Bundles to and from a hub on loopback, by the commands themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.hub import TOKEN, a_hub
from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.model.hub import HubAddress
from wsi_pipeline.model.hub_repository import model_card


@pytest.fixture
def hub():
    with a_hub() as found:
        yield found


@pytest.fixture
def wsi(hub, tmp_path):
    """Run a command of ours with nothing but that hub, and a cache of its own."""

    def run(*arguments, token=TOKEN, offline=False, cache="cache"):
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HOME": str(tmp_path),
            "PATH": os.defpath,
            **({"HF_TOKEN": token} if token else {}),
            **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        }
        return subprocess.run(
            [Path(sys.executable).parent / "wsi", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    return run


def said(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def complaint(done):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_bundle_goes_to_the_hub_and_comes_back_as_it_was(hub, wsi, tiny_bundle):
    bundle = ModelBundle.load(tiny_bundle)
    pushed = said(wsi("bundle", "push", "laboratory/tiny", "--bundle", tiny_bundle)).strip()
    ((oid, files),) = hub.repositories["laboratory/tiny"]
    assert pushed == f"bundle: hf://laboratory/tiny@{oid}#{bundle.digest}"
    assert set(files) == {"README.md", "card.json", "model.safetensors"}
    assert f"bundle: hf://laboratory/tiny@{oid}#{bundle.digest}" in said(
        wsi("bundle", "pull", "hf://laboratory/tiny", cache="another")
    )
    assert f"hf://laboratory/tiny@{oid}#{bundle.digest}" in said(
        wsi("bundle", "list", cache="another")
    )


def test_a_pinned_bundle_that_is_here_asks_no_network(hub, wsi, tiny_bundle):
    said(wsi("bundle", "push", "laboratory/tiny", "--bundle", tiny_bundle))
    pinned = said(wsi("bundle", "pull", "hf://laboratory/tiny")).splitlines()[-1][8:]
    hub.asked.clear()
    for location in (pinned, "hf://laboratory/tiny"):
        assert "# tiny 1" in said(wsi("bundle", "card", "--bundle", location))
    assert "# tiny 1" in said(wsi("bundle", "card", "--bundle", pinned, offline=True))
    assert hub.asked == []
    other = f"hf://laboratory/other@{pinned.split('@')[1]}"
    assert "could not be fetched" in complaint(
        wsi("bundle", "card", "--bundle", other, offline=True)
    )


def test_another_bundle_than_the_pinned_one_is_refused(hub, wsi, tiny_bundle):
    said(wsi("bundle", "push", "laboratory/tiny", "--bundle", tiny_bundle))
    wrong = f"hf://laboratory/tiny#{'0' * 64}"
    line = complaint(wsi("bundle", "card", "--bundle", wrong))
    assert "another digest" in line
    assert ModelBundle.load(tiny_bundle).digest in line.replace(" ", "")


def test_a_newer_revision_is_taken_when_it_is_pulled_and_not_before(
    hub, wsi, tiny_bundle, tmp_path
):
    said(wsi("bundle", "push", "laboratory/tiny", "--bundle", tiny_bundle))
    first = said(wsi("bundle", "pull", "hf://laboratory/tiny")).splitlines()[-1][8:]
    bundle = ModelBundle.load(tiny_bundle)
    newer = ModelBundle.of(bundle.network(), bundle.card.model_copy(update={"version": "2"}))
    newer.save(tmp_path / "newer")
    said(wsi("bundle", "push", "laboratory/tiny", "--bundle", tmp_path / "newer", cache="other"))
    assert "# tiny 1" in said(wsi("bundle", "card", "--bundle", "hf://laboratory/tiny"))
    second = said(wsi("bundle", "pull", "hf://laboratory/tiny")).splitlines()[-1][8:]
    assert first != second
    assert "# tiny 2" in said(wsi("bundle", "card", "--bundle", "hf://laboratory/tiny"))
    assert "# tiny 1" in said(wsi("bundle", "card", "--bundle", first))


def test_what_breaks_off_is_no_bundle_and_is_fetched_again(hub, wsi, tiny_bundle):
    said(wsi("bundle", "push", "laboratory/tiny", "--bundle", tiny_bundle))
    hub.cut_after = 100_000
    assert "could not be fetched" in complaint(
        wsi("bundle", "pull", "hf://laboratory/tiny", cache="other")
    )
    assert "laboratory" not in said(wsi("bundle", "list", cache="other"))
    hub.cut_after = None
    assert "Pin it as" in said(wsi("bundle", "pull", "hf://laboratory/tiny", cache="other"))


def test_nothing_but_a_bundles_files_is_fetched(hub, wsi, tiny_bundle):
    said(wsi("bundle", "push", "laboratory/tiny", "--bundle", tiny_bundle))
    hub.repositories["laboratory/tiny"][-1][1].update(
        {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"}
    )
    hub.repositories["laboratory/empty"] = [("c0ffee", {"README.md": b"nothing here"})]
    hub.asked.clear()
    said(wsi("bundle", "pull", "hf://laboratory/tiny", cache="other"))
    asked = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert asked <= {"score-error.json", "card.json", "model.safetensors"}
    assert "hf://laboratory/empty could not be fetched" in complaint(
        wsi("bundle", "pull", "hf://laboratory/empty")
    )


def test_without_leave_the_hub_takes_nothing_and_we_say_what_to_do(hub, wsi, tiny_bundle):
    line = complaint(
        wsi("bundle", "push", "laboratory/tiny", "--bundle", tiny_bundle, token="hf_wrong")
    )
    assert "hf://laboratory/tiny: the hub does not take the bundle" in line
    assert "HF_TOKEN" in line
    assert hub.repositories == {}
    assert "could not be fetched" in complaint(wsi("bundle", "pull", "hf://nobody/nothing"))


def test_the_card_has_a_header_that_the_hub_reads():
    card = ModelBundle.load(BUNDLED_MODEL).card
    _, header, text = model_card(card).split("---\n", 2)
    about = yaml.safe_load(header)
    assert about["license"] == "apache-2.0"
    assert about["library_name"] == "wsi-pipeline"
    for part in (card.trained_on, card.limitations, card.intended_use, "demonstration"):
        assert part in text
    for name, value in card.metrics.items():
        assert f"| {name} | {value:g} |" in text
    other = card.model_copy(update={"licence": "Ours alone"})
    about = yaml.safe_load(model_card(other).split("---\n", 2)[1])
    assert (about["license"], about["license_name"]) == ("other", "Ours alone")


@pytest.mark.parametrize(
    "address",
    ["hf://one", "hf://../x", "hf://a/b#12", "hf://a/b@", "hf://a/b@.x", "hf://a/b#" + "g" * 64],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(BundleError, match="no hub address"):
        HubAddress.parse(address)


def test_an_address_reads_as_it_was_written():
    for text in ("hf://a/b", "hf://a/b@v1.0", f"hf://a/b@v1.0#{'0' * 64}", f"hf://a/b#{'f' * 64}"):
        assert str(HubAddress.parse(text)) == text
