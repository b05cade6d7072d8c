"""The tests lie in the rooms of the code that they hold."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "tests" / "unit"

ELSEWHERE = {"benchmarks": ROOT / "tests", "tools": ROOT, "training": ROOT}
"""Where a folder of tests has its modules; all others are rooms of the library."""

OF_SEVERAL_MODULES = {
    "test_hostile_files.py": "bundles, configurations and stores that somebody made to do harm",
    "api/test_promised_names.py": "of the package itself: the names that it promises",
    "engine/test_hostile_models.py": "what every engine refuses",
    "slide/test_bounded_headers.py": "what a header may cost, whichever module reads it",
    "tools/test_rooms.py": "of no module, but of where tests lie",
}


def modules_of(folder: Path) -> set[str]:
    """The modules and packages that the tests of a folder may be named after."""
    room = folder.relative_to(UNIT)
    top = room.parts[0] if room.parts else ""
    lies_at = ELSEWHERE.get(top, ROOT / "wsi_pipeline") / room
    assert lies_at.is_dir(), f"{folder}: there is no folder {lies_at}"
    return {path.stem for path in lies_at.iterdir() if path.suffix == ".py" or path.is_dir()}


def test_each_test_is_named_after_a_module_of_its_room():
    """`test_store.py` or, of one aspect, `test_store_damage.py`: both are of `store.py`."""
    astray = []
    for path in sorted(UNIT.rglob("test_*.py")):
        name = path.stem.removeprefix("test_")
        fits = any(f"{name}_".startswith(f"{module}_") for module in modules_of(path.parent))
        if not fits and str(path.relative_to(UNIT)) not in OF_SEVERAL_MODULES:
            astray.append(str(path.relative_to(ROOT)))
    assert astray == []


def test_what_is_of_several_modules_is_there():
    assert [name for name in OF_SEVERAL_MODULES if not (UNIT / name).is_file()] == []
