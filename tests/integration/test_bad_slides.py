"""Every bad slide of `tests.helpers.bad_slides` ends in the word of its table, and says why."""

import errno
import re

import pytest

from tests.helpers.bad_slides import DAMAGES, OTHERS, good_slide
from tests.helpers.trial import OK, Child
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import SlideUnavailableError, WsiError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.slide.readers import choose
from wsi_pipeline.slide.tiff import compressed_tiles

LIMIT_S = 20.0
LIMIT_MIB = 700

REAL = "cmu-1-small-region.svs"
OTHERWISE_MADE = {"no level but the lower ones"}  # it has one level alone


@pytest.fixture(scope="module")
def child():
    with Child(limit_s=LIMIT_S) as it:
        yield it


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return good_slide(tmp_path_factory.mktemp("good"))


def require(case, good, folder, child):
    folder.chmod(0o755)
    path = case.make(good, folder)
    ending = child.attempt(path, case.mpp, as_nobody=case.as_nobody)
    assert re.fullmatch(case.word, ending.word), ending
    assert re.search(case.says, ending.message), ending.message
    assert "\n" not in ending.message
    if ending.message:
        name = path.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        assert name in ending.message
    assert ending.peak_mib < LIMIT_MIB


def test_the_good_slide_is_good(generated, child):
    assert child.attempt(generated).word == OK


@pytest.mark.parametrize("case", [*DAMAGES, *OTHERS], ids=lambda case: case.name)
def test_made_from_a_generated_slide(case, generated, tmp_path, child):
    require(case, generated, tmp_path, child)


@pytest.mark.slides
@pytest.mark.parametrize(
    "case",
    [case for case in DAMAGES if case.name not in OTHERWISE_MADE],
    ids=lambda case: case.name,
)
def test_made_from_a_real_slide(case, slides_dir, tmp_path, child):
    require(case, slides_dir / REAL, tmp_path, child)


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)
    return build_engine(ModelBundle.load(tiny_bundle), config)


@pytest.fixture
def config(tiny_config):
    """A quarter of the tiles."""
    grid = tiny_config.grid.model_copy(update={"stride_px": 128})
    return tiny_config.model_copy(update={"grid": grid})


PIPELINE = {
    "a tile of zeros": "refused",  # one tile in sixteen is too much for a coverage of 90 %
    "flipped bits at a tile's end": "scored",
    "no level but the first": "scored",
    "non-ASCII name": "scored",
    "name of 255 bytes": "scored",
    "one tile of tissue": "scored",
    "all white": "refused",
    "all pen": "refused",
    "truncated at 50 %": "SlideError",
    "all tiles of zeros": "SlideError",
    "directories in a circle": "SlideError",
    "named pipe": "SlideError",
    "no mpp": "MppError",
    "mpp against the tags": "MppError",
}


@pytest.mark.parametrize("name", PIPELINE)
def test_scored_refused_or_failed(name, generated, tmp_path, engine, config):
    """The whole way, with a model: a figure, or a word of why there is none, and no half output."""
    case = next(case for case in (*DAMAGES, *OTHERS) if case.name == name)
    slide = case.make(generated, tmp_path)
    expected, out = PIPELINE[name], tmp_path / "out"
    if expected.endswith("Error"):
        with pytest.raises(WsiError) as error:
            score_slide(slide, out, engine, config)
        assert type(error.value).__name__ == expected
        assert not list(out.glob("*/summary.json"))
    else:
        summary = score_slide(slide, out, engine, config)
        assert summary.status == expected
        assert (summary.cellularity is None) == (expected == "refused")
        assert bool(summary.reason) == (expected == "refused")


def test_a_slide_that_goes_away_is_gone_on_with(generated, tmp_path, engine, config, monkeypatch):
    """Not a tile is taken for damaged, and the outputs are those of an undisturbed run."""
    whole = score_slide(generated, tmp_path / "whole", engine, config)
    reads = []

    def away(file, offset, count):
        reads.append(offset)
        if len(reads) > 9:
            raise OSError(errno.EIO, "Input/output error")
        return read_at(file, offset, count)

    read_at = compressed_tiles.SharedFile.read_at
    monkeypatch.setattr(compressed_tiles.SharedFile, "read_at", away)
    monkeypatch.setattr(choose.OpenSlideReader, "__init__", away)
    with pytest.raises(SlideUnavailableError, match="cannot be reached now"):
        score_slide(generated, tmp_path / "out", engine, config)
    assert len(reads) > 9
    assert not list((tmp_path / "out").glob("*/summary.json"))
    monkeypatch.undo()
    again = score_slide(generated, tmp_path / "out", engine, config)
    assert again == whole
    assert again.tiles.unreadable == 0
