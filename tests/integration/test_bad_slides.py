"""Every bad slide of `tests.bad_slides` ends in the word that its table says, and says why."""

import re

import pytest

from tests.bad_slides import DAMAGES, OTHERS, good_slide
from tests.trial import OK, Child

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
