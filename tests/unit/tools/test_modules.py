"""The checks of modules: each must be able to fail."""

import pytest

from tools.modules import faults

LONG = 401 * "pass\n"


@pytest.mark.parametrize(
    "line", ["from a.b import _c", "from a.b import c, _d as d", "def f():\n    from .b import _c"]
)
def test_a_private_name_is_not_imported(line):
    (fault,) = faults("a.py", f"{line}\n")
    assert " is private to " in fault


@pytest.mark.parametrize("line", ["from a.b import c", "from a import __version__", "_a = 1"])
def test_other_names_are(line):
    assert list(faults("a.py", f"{line}\n")) == []


def test_a_long_module_says_why():
    (fault,) = faults("a.py", LONG)
    assert fault.startswith("a.py: 401 lines. Split it")
    assert (
        list(faults("a.py", f'"""A table.\n\nOver 400 lines: one row a case.\n"""\n{LONG}')) == []
    )
    assert list(faults("a.py", LONG.removeprefix("pass\n"))) == []
