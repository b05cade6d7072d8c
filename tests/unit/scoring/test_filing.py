import os
import re
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsi_pipeline.errors import SlideError
from wsi_pipeline.scoring.filing import MAX_FOLDER_BYTES, slide_folder
from wsi_pipeline.slide.files import SlideFile, file_name
from wsi_pipeline.slide.redaction import without_name
from wsi_pipeline.slide.slide import Slide

OUT = Path("results")


def folder_of(location: str) -> str:
    folder = slide_folder(location, OUT)
    assert folder.parent == OUT
    return folder.name


NASTY = st.text(
    st.sampled_from(list("./\\:~%2eE*?<>|\"' \n\r\t\0\x1b\x7fab.é\u202e\u0301\U0001f52c\udcff"))
)


@given(st.one_of(st.text(), NASTY, NASTY.map(lambda text: f"s3://bucket/{text}.svs")))
@example("../../etc/passwd.svs")
@example("..")
@example("a/../../x.svs")
@example("..\\..\\windows\\system32.svs")
@example("C:\\x\\a.svs")
@example("a\0b.svs")
@example("a\nb.svs")
@example(".partial-summary.svs")
@example("x" * 255)
@example("é" * 126 + ".svs")
@example("\U0001f52c" * 62)
@example("%2e%2e%2f%2e%2e%2fetc.svs")
@example("NUL.svs")
@example("con.tar.svs")
@example("~root.svs")
@example("-rf.svs")
@example("\udcff\udcfe.svs")
def test_every_name_is_a_folder_below_the_output_folder_on_any_file_system(location):
    try:
        folder = slide_folder(location, OUT)
    except SlideError:
        return
    assert folder.parent == OUT
    assert Path(os.path.normpath(folder)) == folder, "it leads elsewhere"
    name = folder.name
    assert name not in {"", ".", ".."}
    assert not re.search(r'[\x00-\x1f\x7f<>:"/\\|?*]', name)
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert name.isprintable()
    assert normalize("NFC", name) == name
    assert len(name.encode()) <= MAX_FOLDER_BYTES
    assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name)
    assert folder_of(location) == name, "not the same every time"
    assert not re.search(r"[\ud800-\udfff]", file_name(location))
    assert file_name(location).translate({0xA0: " ", 0x202F: " "}).isprintable()


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("inbox/Case_07 HE.svs", "Case_07 HE"),
        ("s3://bucket/folder/b.c.svs", "b.c"),
        ("染色 切片.ndpi", "染色 切片"),
        ("e\u0301.svs", "\u00e9"),  # as macOS writes é
        ("https://host:8080/a.svs", "a"),
        ("https://[::1]:80/a.svs", "a"),
        ("s3://bucket/a@b:c.svs/x.svs", "x"),
    ],
)
def test_a_plain_name_stays_as_it_is(location, name):
    assert folder_of(location) == name


def test_names_that_are_changed_stay_apart():
    alike = ["a:b.svs", "a?b.svs", "a*b.svs", "a_b.svs", ".a_b.svs", " a_b.svs", "a\nb.svs"]
    long = [f"{'x' * 200}{number}.svs" for number in range(9)]
    names = [folder_of(location) for location in alike + long]
    assert len(set(names)) == len(names)
    assert "a_b" in names
    assert re.fullmatch(r"a_b-[0-9a-f]{8}", folder_of("a:b.svs"))


SECRET = "hunter2"


@pytest.mark.parametrize(
    "location",
    [
        f"s3://AKIA:{SECRET}@bucket/a.svs",
        f"s3://AKIA:{SECRET}/with+slash@bucket/a.svs",
        f"https://user:{SECRET}@host/a.svs",
        f"https://{SECRET}@host/a.svs",
        f"simplecache::https://user:{SECRET}@host/a.svs",
        f"https://host/a.svs?X-Amz-Signature={SECRET}",
        f"https://host/a.svs?sig={SECRET}#page",
    ],
)
def test_a_url_that_holds_a_secret_is_refused_and_not_repeated(location):
    for use in (lambda: slide_folder(location, OUT), lambda: Slide.open(location)):
        with pytest.raises(SlideError, match=r"credentials in the environment") as caught:
            use()
        assert SECRET not in str(caught.value)
        assert "AKIA" not in str(caught.value)


def test_a_pseudonym_hides_every_file_of_a_slide_in_what_libraries_say(tmp_path):
    folder = tmp_path / "Mustermann case"
    folder.mkdir()
    vms = folder / "Mustermann, Erika (1).vms"
    vms.write_text("[Virtual Microscope Specimen]\nMapFile=Mustermann, Erika: map.jpg\n")
    (folder / "Erika beside it.jpg").touch()
    name = "slide-0123456789abcdef"
    slide = SlideFile(str(vms), (str(vms),), name, name)
    for said in (
        f"{vms}: damaged",
        f"Couldn't open {folder}/Mustermann, Erika: map.jpg: No such file",
        f"{folder}/Mustermann-other.dat, and '{folder}/Mustermann.x'",
        "no Mustermann, Erika (1).vms; Mustermann, Erika (1)/Slidedat.ini; Erika beside it.jpg",
        f"FileNotFoundError: [Errno 2] No such file or directory: {str(vms)!r}",
    ):
        hidden = without_name(said, slide)
        assert "slide-0123456789abcdef" in hidden
        assert "Muster" not in hidden
        assert "Erika" not in hidden
    url = "s3://bucket/Mustermann case/Mustermann.svs"
    remote = SlideFile(url, (url,), name, name)
    hidden = without_name(f"{url}: bucket/Mustermann case/Mustermann.svs is gone", remote)
    assert hidden == f"{name}: {name} is gone"
    short = SlideFile("/in/a.svs", ("/in/a.svs",), name, name)
    assert without_name("in a.svs, see", short) == f"in {name}, see"
    own = SlideFile(str(vms), (str(vms),), "x", vms.name)
    assert without_name(f"{vms}: x", own) == f"{vms}: x"
