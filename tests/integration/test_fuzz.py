"""Mutations of real slides: each ends in a word, and none in a crash, a hang or a surprise.

The words themselves are not compared: they may move with the libraries' versions. What a mutation
*is* may not, or no finding could be repeated.
"""

import os
import signal
from collections import Counter

import pytest

from tests.helpers.trial import BUGS, CRASH, DAMAGED, HANG, MEMORY, OK, Child
from tools.fuzz import fuzz
from tools.mutations import dissect, mutated

pytestmark = pytest.mark.slides

SLIDES = ("cmu-1-small-region.svs", "her2st-b4.tif", "monusac-a9k0-1.svs")


def child():
    return Child(limit_s=30.0)


def require_no_bugs(results):
    bugs = [result for result in results if result.ending.word in BUGS]
    assert not bugs, bugs
    # A drive that is away is no explanation here: it would hide the damage.
    words = Counter(result.ending.word for result in results)
    assert "SlideUnavailableError" not in words
    return words


def test_some_mutations(slides_dir):
    results = list(fuzz([slides_dir / name for name in SLIDES], 40, seed=7, workers=2, child=child))
    words = require_no_bugs(results)
    assert len(results) == 40 * len(SLIDES)
    for word in (OK, DAMAGED, "SlideError"):
        assert words[word] > 10
    assert all("\n" not in result.ending.message for result in results)
    named = [result.ending.message for result in results if result.ending.word.endswith("Error")]
    assert all("fuzz-" in message and ".svs" in message for message in named)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_thousands_of_mutations(slides_dir):
    slides = sorted(path for path in slides_dir.iterdir() if path.suffix in {".svs", ".tif"})
    require_no_bugs(list(fuzz(slides, 2000, seed=1, workers=2)))


def test_a_mutation_follows_from_its_number(slides_dir):
    path = slides_dir / SLIDES[0]
    anatomy = dissect(path)
    one, again, other = (mutated(path, anatomy, 1, number) for number in (5, 5, 6))
    assert one.content == again.content != other.content
    assert one.steps == again.steps
    assert one.l0_boxes == again.l0_boxes


@pytest.mark.parametrize(
    ("limits", "word"), [({"limit_s": 0.0}, HANG), ({"limit_bytes": 1}, MEMORY)]
)
def test_a_child_that_is_over_its_limit_is_replaced(slides_dir, limits, word):
    with Child(**limits) as victim:
        for _ in range(2):
            assert victim.attempt(slides_dir / "her2st-b4.tif").word == word


def test_a_child_that_dies_is_replaced(slides_dir):
    with Child() as victim:
        path = slides_dir / "her2st-b4.tif"
        assert victim.attempt(path).word == OK
        os.kill(victim._process.pid, signal.SIGSEGV)
        assert victim.attempt(path).word == CRASH
        assert victim.attempt(path).word == OK
