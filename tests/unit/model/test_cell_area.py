import pytest
import torch

from wsi_pipeline.model.cell_area import area_of_cells

TISSUE, GLASS = 120, 255


def maps(side=64, stride=2):
    """A malignant nucleus of 10 by 10 cells of the map, alone on tissue."""
    malignant, others = torch.zeros(2, 1, side, side)
    malignant[0, 20:30, 20:30] = 1
    pixels = torch.full((1, stride * side, stride * side, 3), TISSUE, dtype=torch.uint8)
    return malignant, others, pixels


def test_a_nucleus_grows_by_three_micrometres_each_way():
    """3 µm are 6 px at 0.5 µm/px, and 3 cells at stride 2."""
    area = area_of_cells(*maps(), stride=2)
    share, tissue = area.ratio(), area.tissue
    assert tissue.all()
    assert float(share) == pytest.approx(16**2 / 64**2, rel=1e-5)


def test_glass_is_no_tissue():
    malignant, others, pixels = maps()
    pixels[:, :, 96:] = GLASS
    area = area_of_cells(malignant, others, pixels, stride=2)
    share, tissue = area.ratio(), area.tissue
    assert not tissue[..., 54:].any()
    assert float(share) == pytest.approx(16**2 / float(tissue.sum()), rel=1e-5)
    assert float(share) > 1.2 * 16**2 / 64**2


def test_cells_do_not_grow_into_others():
    malignant, others, pixels = maps()
    others[0, 20:30, 30:40] = 1
    share = area_of_cells(malignant, others, pixels, stride=2).ratio()
    assert float(share) < 16 * 14 / 64**2


def test_without_tissue_there_is_no_share():
    malignant, others, pixels = maps()
    area = area_of_cells(malignant * 0, others, pixels * 0 + GLASS, stride=2)
    share, tissue = area.ratio(), area.tissue
    assert float(share) == 0
    assert not tissue.any()


def test_squares_are_of_sixteen_micrometres_and_add_up_to_the_ratio():
    malignant, others, pixels = maps()
    pixels[:, :, 96:] = GLASS
    area = area_of_cells(malignant, others, pixels, stride=2)
    squares = area.squares(stride=2)
    assert squares.shape == (1, 2, 4, 4)
    cells, tissue = squares[0].sum(dim=(1, 2))
    assert float(cells / tissue) == pytest.approx(float(area.ratio()), rel=1e-5)
    assert float(squares[0, 0, 1, 1]) == pytest.approx(float(area.cells[0, 16:32, 16:32].mean()))
    assert (squares[0, 1] >= squares[0, 0]).all()
