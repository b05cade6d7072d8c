"""With `names: digest`, no file's name gets into any byte that a night writes or says.

Slides of several files, and those that nobody can read, are what gave names away: libraries name
the part that they miss, and files that are no slides were named in the log.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydicom.uid import generate_uid

from tests.helpers.made import config_of_tiny, write_slide
from tests.helpers.multi_file import VMS, write, write_dicom

WHO = "Mustermann-Erika"
QUICK = {
    "names": "digest",
    "inbox": {"quiet_s": 0, "look_again_s": 0},
    "crew": {"slides_at_once": 1, "retries": 1, "retry_after_s": 0},
}


def lay_out(inbox: Path, rgb) -> None:
    """Make an inbox in which nearly everything is wrong with something."""
    case = inbox / f"{WHO}-case"
    write(
        inbox / f"{WHO}.vms", VMS.replace("s.jpg", f"{WHO}.jpg").replace("s_", f"{WHO}_").encode()
    )
    write(inbox / f"{WHO}.jpg", b"\xff\xd8 no JPEG")
    write(inbox / f"{WHO}-m.mrxs", b"mrxs")
    write(inbox / f"{WHO}-m" / "Slidedat.ini", b"[GENERAL]\n")
    write(inbox / f"{WHO}-m" / f"{WHO}.dat")
    series = generate_uid()
    write_dicom(case / f"{WHO}-1.dcm", series)
    write_dicom(case / f"{WHO}-2.dcm", series, instance=2)
    write_dicom(case / f"{WHO}-ann.dcm", generate_uid(), modality="ANN")
    write(case / f"{WHO}-broken.dcm", b"DICM")
    write_slide(case / f"{WHO}.tif", rgb)
    write_slide(inbox / f"{WHO}-copy.tif", rgb)
    write_slide(inbox / f"{WHO}-no-mpp.tif", rgb[:256, :256], mpp=None)
    write(inbox / f"{WHO}-cut.svs", b"II*\0 nonsense")
    write(inbox / f"{WHO}-empty.svs", b"")
    (inbox / f"{WHO}-circle.svs").symlink_to(f"{WHO}-circle.svs")
    os.mkfifo(inbox / f"{WHO}-pipe.svs")
    (inbox / os.fsdecode(f"{WHO}-".encode() + b"\xff.svs")).write_bytes(b"x")


@pytest.fixture(scope="module")
def said(tmp_path_factory, tiny_bundle, section):
    root = tmp_path_factory.mktemp("pseudonyms")
    lay_out(root / "in", section.rgb[:512, :512])
    settings = config_of_tiny().model_dump(mode="json", include={"grid", "engine", "workers"})
    (root / "score.yaml").write_text(yaml.safe_dump(settings | QUICK))
    ended = subprocess.run(
        [sys.executable, "-c", "from wsi_pipeline.cli import main; main()", "-v", "cohort", "in",
         "--out", "out", "--config", "score.yaml", "--bundle", tiny_bundle],
        cwd=root, capture_output=True, check=False, timeout=500,
    )  # fmt: skip
    return ended.stdout + ended.stderr, root / "out"


def test_nothing_that_a_night_writes_or_says_names_a_file(said):
    words, out = said
    assert WHO.encode().lower() not in words.lower()
    pages = list(out.glob("nights/*/index.html"))
    assert len(pages) == 1
    assert pages[0].read_text("utf-8").count("slide-") > 10
    for path in out.rglob("*"):
        assert WHO.lower() not in str(path.relative_to(out)).lower()
        assert not path.is_file() or WHO.encode().lower() not in path.read_bytes().lower(), path


def test_scoring_one_by_one_names_none_either(tmp_path, tiny_bundle, section, monkeypatch, capfd):
    from wsi_pipeline import cli

    lay_out(tmp_path / "in", section.rgb[:512, :512])
    settings = config_of_tiny().model_dump(mode="json", include={"grid", "engine", "workers"})
    (tmp_path / "score.yaml").write_text(yaml.safe_dump(settings | QUICK))
    slides = [path for path in sorted((tmp_path / "in").rglob("*")) if path.suffix in {
        ".vms", ".mrxs", ".dcm", ".svs"} and not path.is_dir()]  # fmt: skip
    arguments = [*map(str, slides), "--out", str(tmp_path / "out"), "--config"]
    arguments += [str(tmp_path / "score.yaml"), "--bundle", str(tiny_bundle)]
    monkeypatch.setattr(sys, "argv", ["wsi", "score", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    words = "".join(capfd.readouterr())
    assert words.count("error: ") >= 8
    assert WHO.lower() not in words.lower()
