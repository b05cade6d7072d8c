"""Outlines made from points, against the true outlines of real nuclei."""

import pytest

from training.outline_quality import compare, read_consep, read_slide

pytestmark = pytest.mark.slides


def figures(rows):
    for row in rows:
        assert row.watershed > row.discs, (
            f"{row.figure}: discs of {row.disc_radius_um} µm are better"
        )
    return {row.figure: row.watershed for row in rows}


def test_watershed_beats_the_best_discs_on_colon(slides_dir):
    """Three images that the method was not tuned on, their pixels and nuclei counted together."""
    root = slides_dir.parent / "consep"
    if not root.is_dir():
        pytest.skip(f"CoNSeP is not here: put its images into {root}")
    chosen = {"train_3", "train_12", "train_18"}
    outlined = [one for one in read_consep(root, held_out=True) if one.name in chosen]
    assert len(outlined) == len(chosen)
    found = figures([row for row in compare("CoNSeP", outlined) if row.figure in ("Dice", "PQ")])
    assert found["Dice"] > 0.75
    assert found["PQ"] > 0.5


def test_watershed_beats_the_best_discs_on_a_slide(slides_dir):
    path = slides_dir / "monusac-a9k0-1.svs"
    found = figures(compare("MoNuSAC", [read_slide(path, path.with_suffix(".xml"))]))
    assert found["Dice"] > 0.86
    assert found["PQ"] > 0.74
