import json

import pytest
import yaml

from wsi_pipeline.case import assess as module
from wsi_pipeline.case.assess import Block, assess
from wsi_pipeline.case.entries import CaseEntries, read_entries
from wsi_pipeline.case.worksheet import worksheet, write_case
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.outputs.interval import Interval
from wsi_pipeline.outputs.summary import BedFigures

ENTERED = {
    "case": "Case 17",
    "tumour_bed_mm": [18, 24],
    "cellularity_percent": 10,
    "in_situ_percent": 5,
    "positive_nodes": 3,
    "largest_metastasis_mm": 4,
}
OF_THE_MAP = {"cellularity_percent": None}


def bed(share=0.2, area=100.0, source="drawn", half=0.05) -> BedFigures:
    interval = Interval(low=share - half, high=share + half, method="m") if half else None
    return BedFigures(
        source=source, parts=1, area_mm2=area, longest_mm=14.0, across_mm=9.0,
        cellularity=share, interval=interval, coverage=1.0,
    )  # fmt: skip


@pytest.fixture
def blocks(monkeypatch):
    """Blocks in place of folders of results, by their names."""

    def place(**beds):
        def block(folder):
            name = folder.name
            return Block(
                folder=name, slide=f"{name}.svs", digest=f"{ord(name[0]):032x}", model="m 1",
                demonstration=True, bed=beds[name],
            )  # fmt: skip

        monkeypatch.setattr(module, "_block", block)
        return {"slides": list(beds)}

    return place


def entries(**changes) -> CaseEntries:
    return CaseEntries.model_validate(ENTERED | changes)


def test_all_entered_is_the_worked_example():
    result = assess(entries())
    assert result.rcb.index == pytest.approx(3.0313, abs=1e-4)
    assert result.rcb.rcb_class == "RCB-II"
    assert result.missing == ()
    assert {term.origin for term in result.terms} == {"entered"}
    assert result.rcb.flip_chance is None
    assert result.term("tumour bed, longest").value == 24


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("in_situ_percent", "in situ: enter in_situ_percent: it is never assumed"),
        ("positive_nodes", "positive nodes"),
        ("largest_metastasis_mm", "largest metastasis"),
        ("cellularity_percent", "cellularity: enter it, or name scored slides"),
        ("tumour_bed_mm", "tumour bed, longest: enter it, or name scored slides"),
    ],
)
def test_what_is_missing_is_said_and_gives_no_class(left_out, missing):
    result = assess(entries(**{left_out: None}))
    assert result.rcb is None
    assert any(what.startswith(missing) for what in result.missing)


def test_without_positive_nodes_no_metastasis_is_asked_for():
    result = assess(entries(positive_nodes=0, largest_metastasis_mm=None))
    assert result.rcb.nodal_term == 0
    with pytest.raises(ValueError, match="positive_nodes is 0"):
        entries(positive_nodes=0)


def test_one_outlined_bed_is_measured(blocks):
    result = assess(entries(**OF_THE_MAP, tumour_bed_mm=None, **blocks(a=bed())))
    assert result.term("cellularity").origin == "measured"
    assert result.term("cellularity").value == 20
    assert result.term("tumour bed, longest").value == 14
    assert result.term("tumour bed, across").value == 9
    assert result.rcb.interval[0] < result.rcb.index < result.rcb.interval[1]
    assert 0 <= result.rcb.flip_chance < 0.5


def test_entered_wins_over_measured(blocks):
    result = assess(entries(**blocks(a=bed(share=0.6))))
    assert result.term("cellularity").value == 10
    assert result.term("tumour bed, longest").value == 24


def test_blocks_are_weighted_by_the_area_of_their_beds(blocks):
    named = blocks(a=bed(share=0.1, area=300), b=bed(share=0.5, area=100))
    result = assess(entries(**OF_THE_MAP, **named))
    assert result.term("cellularity").value == pytest.approx(20)
    assert result.cellularity_deviation == pytest.approx(0.05 / 1.959964)


def test_of_several_blocks_the_beds_size_has_to_be_entered(blocks):
    result = assess(entries(**OF_THE_MAP, tumour_bed_mm=None, **blocks(a=bed(), b=bed())))
    assert result.rcb is None
    assert any("enter tumour_bed_mm from the specimen" in what for what in result.missing)


@pytest.mark.parametrize("poor", [None, bed(source="proposed")])
def test_a_bed_that_nobody_drew_gives_no_class(blocks, poor):
    result = assess(entries(**OF_THE_MAP, **blocks(a=bed(), b=poor)))
    assert result.rcb is None
    assert any("outline the tumour bed of b.svs" in what for what in result.missing)


def test_a_bed_without_an_interval_gives_an_index_without_one(blocks):
    result = assess(entries(**OF_THE_MAP, **blocks(a=bed(half=0))))
    assert result.rcb.interval is None
    assert "not known" in result.rcb.interval_is


def test_a_slide_named_twice_and_a_folder_without_a_result_are_refused(blocks, tmp_path):
    with pytest.raises(ConfigError, match="there is no finished result here"):
        assess(entries(slides=[tmp_path]))
    named = blocks(a=bed(), another=bed())
    with pytest.raises(ConfigError, match="named twice"):
        assess(entries(**named))


def test_the_file_is_read_with_its_slides_beside_it(tmp_path):
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({**ENTERED, "slides": ["out/a"]}))
    assert read_entries(path).slides == (tmp_path / "out" / "a",)
    path.write_text(yaml.safe_dump({**ENTERED, "in_situ_percent": 105}))
    with pytest.raises(ConfigError, match="in_situ_percent"):
        read_entries(path)


def test_the_worksheet_shows_every_term_and_where_it_is_from(blocks, tmp_path):
    hostile = "Case <script>alert(1)</script>"
    result = assess(entries(**OF_THE_MAP, case=hostile, **blocks(a=bed())))
    page = worksheet(result)
    assert "<script>alert" not in page
    for word in ("entered", "measured", "RCB-II", "Research use only", "a.svs", "0.17"):
        assert word in page
    assert page == worksheet(result)
    path = write_case(tmp_path / "case", result)
    stored = json.loads((path.parent / "case.json").read_text())
    assert stored["rcb"]["index"] == result.rcb.index
    assert "No class yet" in worksheet(assess(entries(in_situ_percent=None)))
