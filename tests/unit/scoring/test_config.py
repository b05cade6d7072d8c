"""A run's options over its file over the defaults."""

from pathlib import Path

import pytest

from tests.helpers.made import settings_of
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.night.config import NightConfig
from wsi_pipeline.validation import load_yaml


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "score.yaml"
    path.write_text(
        "slide: {backend: tiffslide, mpp: 0.25}\n"
        "grid: {stride_px: 256, allow_upsampling: true}\n"
        "keep_tiles: true\n"
    )
    return path


def test_without_anything_there_are_the_defaults() -> None:
    assert NightConfig.resolve() == NightConfig()


def test_what_no_option_gives_stays_as_the_file_has_it(path: Path) -> None:
    assert NightConfig.resolve(path) == load_yaml(path, NightConfig)


def test_options_win_over_the_file_and_leave_their_neighbours(path: Path) -> None:
    config = NightConfig.resolve(
        path, mpp=0.5, allow_upsampling=False, device="cpu", workers=3, keep_tiles=False
    )
    assert (config.slide.mpp, config.slide.backend) == (0.5, "tiffslide")
    assert (config.grid.allow_upsampling, config.grid.stride_px) == (False, 256)
    assert (config.engine.device, config.engine.precision) == ("cpu", "auto")
    assert (config.workers, config.keep_tiles) == (3, False)


@pytest.mark.parametrize("options", [{"mpp": 0.0}, {"mpp": float("nan")}, {"workers": 0}])
def test_values_out_of_range_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        NightConfig.resolve(None, **options)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("grid: {stride: 256}\n", r"grid\.stride"), ("[1", "not YAML"), ("- 1\n", "the file")],
)
def test_files_that_are_not_understood_are_named(
    tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"{path}.*{problem}"):
        NightConfig.resolve(path)


def test_only_what_decides_a_result_is_in_its_settings() -> None:
    """Neither where nor how fast a slide is read and scored makes a finished result another."""
    plain = NightConfig()
    same = {
        "slide": {"backend": "openslide"},
        "grid": {"allow_upsampling": True},
        "engine": {"device": "cuda:1", "runtime": "torch", "batch_size": 7},
        "names": "digest",
        "keep_tiles": True,
        "workers": 3,
        "store": {"root": "/elsewhere"},
        "cluster": "tcp://host:8786",
        "inbox": {"quiet_s": 5},
        "crew": {"retries": 9},
        "estimate_first": 0.02,
        "until": "06:00",
        "digest_cache": "/tmp/digests",
        "score_error": "/elsewhere/score-error.json",
    }
    assert settings_of(config=NightConfig.model_validate(same)) == settings_of(config=plain)
    other: list[dict[str, object]] = [
        {"slide": {"mpp": 0.25}},
        {"tissue": {"mpp": 4.0}},
        {"grid": {"stride_px": 256}},
        {"engine": {"precision": "float32"}},
        {"engine": {"views": 8}},
        {"engine": {"class_fractions": False}},
        {"overlay": {"opacity": 0.5}},
        {"fine_map": {"cell_um": 64}},
        {"min_coverage": 0.5},
    ]
    found = {settings_of(config=NightConfig.model_validate(each)).digest for each in other}
    found.add(settings_of("d2", plain).digest)
    assert len(found) == len(other) + 1
    assert settings_of(config=plain).digest not in found
    # Every section is looked at: a new one has to be put on one side or the other.
    assert {*same, *(section for each in other for section in each)} == set(
        NightConfig.model_fields
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such configuration file"):
        NightConfig.resolve(tmp_path / "no.yaml")
