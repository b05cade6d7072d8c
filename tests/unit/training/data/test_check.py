import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from training.data.check import check, main
from training.synthetic import SyntheticConfig, generate_patch


def run(capsys, *arguments):
    try:
        main(["check", *map(str, arguments)])
        code = 0
    except SystemExit as exit_:
        code = exit_.code
    return code, capsys.readouterr().out


def figures(out, label):
    """The numbers of a row of the summary, a column per set."""
    (line,) = (line for line in out.splitlines() if line.startswith(f"│ {label} "))
    return [cell.split()[-1] for cell in line.strip("│").split("│")[1:]]


def test_a_good_breastpathq_root_is_summarised(challenge, capsys, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    code, out = run(capsys, challenge.root, "--contact-sheet", sheet)
    assert code == 0
    assert "no faults found" in out
    assert figures(out, "pictures") == ["6", "3", "2", "1"]
    assert figures(out, "slides or images") == ["3", "2", "1", "1"]
    assert figures(out, "malignant nuclei") == ["12", "–", "–", "–"]
    assert figures(out, "lymphocyte nuclei") == ["6", "–", "–", "–"]
    assert figures(out, "cellularity is") == ["derived", "judged", "judged", "judged"]
    assert figures(out, "its mean")[1:] == ["0.467", "0.550", "0.400"]
    assert [figures(out, f"{low} to")[1] for low in ("0.0", "0.4", "0.9")] == ["1", "1", "1"]
    with Image.open(sheet) as picture:
        assert picture.mode == "RGB"
        assert picture.width > 2000


def test_a_good_crchisto_root_is_summarised(crchisto_root, capsys):
    code, out = run(capsys, crchisto_root)
    assert code == 0
    assert figures(out, "pictures") == ["2", "1"]
    assert figures(out, "normal nuclei") == ["2", "1"]


def consep_root(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in (1, 2):
        cv2.imwrite(str(folder / f"train_{number}.png"), rng.integers(90, 200, (100, 80, 3)))
        instances, types = np.zeros((100, 80), np.uint16), np.zeros((100, 80), np.uint8)
        instances[10:20, 10:20], instances[40:60, 30:60] = 1, 2
        types[10:20, 10:20], types[40:60, 30:60] = 2, 4
        cv2.imwrite(str(folder / f"train_{number}_inst.png"), instances)
        cv2.imwrite(str(folder / f"train_{number}_type.png"), types)
    return folder


def test_a_consep_root_is_recognised_and_checked(tmp_path, capsys):
    root = consep_root(tmp_path / "consep")
    code, out = run(capsys, root)
    assert code == 0
    assert figures(out, "malignant nuclei") == ["2"]
    (root / "train_2_inst.png").unlink()
    code, out = run(capsys, root)
    assert code == 1
    assert "train_2_inst.png is missing" in out
    assert figures(out, "pictures") == ["1"]


def test_all_faults_are_found_at_once(challenge, capsys):
    (challenge.datasets / "train_labels.csv").write_text(
        "slide,rid,y\n1001,1,1.4\n1001,2,0\n1002,1,half\n1002,2,0.5\n"
    )
    Image.new("L", (512, 512)).save(challenge.datasets / "train/1001_2.tif")
    (challenge.datasets / "validation/2001_10.tif").write_bytes(b"II*\0")
    challenge.write_key(29, 1, ("Blob", [(1, 2)]))
    challenge.write_key(30, 1, ("IDC", [(1, 200)]))
    challenge.region(31, 2, "image").unlink()
    code, out = run(capsys, challenge.root)
    assert code == 1
    faults = out[out.rindex("┘") + 2 :].splitlines()
    expected = (
        *(
            "line 2, gives y as 1.4",
            "line 4, gives y as 'half'",
            "line 5, lists",
            "1001_2.tif is a",
        ),
        *("2001_10.tif", "'Blob'", "outside of its image", "31_Region 2_key.xml has no image"),
    )
    for fault in expected:
        assert sum(fault in line for line in faults) == 1, fault
    assert len(faults) == len(expected)
    assert figures(out, "pictures") == ["3", "0", "1", "1"]


def test_pictures_on_both_sides_are_found(challenge):
    leaked = challenge.datasets / "validation/1001_7.tif"
    leaked.write_bytes((challenge.datasets / "train/1002_1.tif").read_bytes())
    with (challenge.datasets / "val_labels.csv").open("a") as table:
        table.write("1001,7,0.5\n")
    slide, pixels = check(challenge.root)
    assert slide.startswith("patches, train and validation: breastpathq 1001")
    assert "1002_1.tif and 1001_7.tif are the same picture" in pixels


def test_faults_beyond_fifty_are_counted(challenge, capsys):
    rows = "".join(f"9,{i},0.5\n" for i in range(60))
    with (challenge.datasets / "train_labels.csv").open("a") as table:
        table.write(rows)
    code, out = run(capsys, challenge.root)
    assert code == 1
    assert out.count("9_") == 50
    assert "… and 10 more" in out


@pytest.mark.parametrize("make", ["nothing", "empty"])
def test_an_unknown_layout_is_told_the_known_ones(tmp_path, capsys, make):
    root = tmp_path / "root"
    if make == "empty":
        root.mkdir()
    code, out = run(capsys, root)
    assert code == 1
    assert str(root) in out
    for name in ("BreastPathQ", "CoNSeP", "CRCHistoPhenotypes"):
        assert name in out


@pytest.mark.slides
def test_real_tissue_and_real_points_make_a_sheet(slides_dir, challenge, tmp_path, capsys):
    published = slides_dir.parent / "breastpathq"
    real = (published / "99788_1.tif").read_bytes()
    (challenge.datasets / "train/99788_1.tif").write_bytes(real)
    with (challenge.datasets / "train_labels.csv").open("a") as table:
        table.write("99788,1,0.5\n")
    rows = [line.split(",") for line in (published / "cells_points.csv").read_text().splitlines()]
    points = [(int(x), int(y)) for roi, x, y, _ in rows[1:] if roi == "roi_000"]
    patch = generate_patch(np.random.default_rng(1), SyntheticConfig(size=720), "nests")
    tifffile.imwrite(challenge.region(29, 1, "image"), patch.rgb[:480], photometric="rgb")
    challenge.write_key(29, 1, ("IDC", points))
    code, out = run(capsys, challenge.root, "--contact-sheet", tmp_path / "sheet.png")
    assert code == 0
    assert figures(out, "malignant nuclei")[0] == f"{len(points) + 10}"
    assert (tmp_path / "sheet.png").stat().st_size > 100_000
