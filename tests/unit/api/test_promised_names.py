"""`import wsi_pipeline`: what it promises, and that it costs nothing before it is used."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import wsi_pipeline as wsi

PROMISED = {
    "Box", "Estimate", "ModelBundle", "Mpp", "Result", "Size", "Slide", "WsiError", "estimate",
    "load_bundle", "open_result", "open_results", "score",
}  # fmt: skip

HEAVY = ("numpy", "torch", "zarr", "pandas", "xarray", "matplotlib", "pydantic", "cv2", "PIL")


def test_importing_it_loads_nothing_that_takes_time():
    """Counted and not timed: so many small modules of Python's own take hundredths of a second."""
    code = (
        "import json, sys; before = set(sys.modules); import wsi_pipeline; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = json.loads(done.stdout)
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []
    assert [name for name in loaded if name.startswith("wsi_pipeline.")] == []
    assert len(loaded) < 200


def test_the_promised_names_are_there_and_no_others():
    assert set(wsi.__all__) == set(dir(wsi)) == PROMISED
    for name in PROMISED:
        assert callable(getattr(wsi, name)), name
        assert getattr(wsi, name).__doc__ or name == "Mpp"
    assert wsi.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = wsi.nothing


def test_what_checkers_of_types_read_is_what_there_is():
    stub = ast.parse(Path(wsi.__file__).with_suffix(".pyi").read_text())
    named = {
        alias.asname: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(named) == PROMISED
    for name, (module, own) in named.items():
        assert own == name
        if name != "Mpp":  # a kind of float, which knows no module of its own on all versions
            assert getattr(wsi, name).__module__ == f"wsi_pipeline.{module}"


@pytest.mark.long
def test_mypy_knows_all_of_it(tmp_path):
    script = tmp_path / "user.py"
    script.write_text(
        """import wsi_pipeline as wsi
result = wsi.score("slide.svs", "results", mpp=0.5)
reveal_type(result)
reveal_type(result.summary.status)
assert result.summary.cellularity is not None
reveal_type(result.summary.cellularity.mean)
reveal_type(wsi.open_results("results"))
reveal_type(wsi.load_bundle().card.name)
with wsi.Slide.open("slide.svs", mpp=wsi.Mpp(0.5)) as slide:
    reveal_type(slide.read(wsi.Box(0, 0, 512, 512), wsi.Size(256, 256)))
reveal_type(result.plot())
reveal_type(result.map)
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(Path(wsi.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    revealed = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    assert done.returncode == 0, done.stdout
    assert "unsignedinteger[numpy._typing._nbit_base._8Bit]" in revealed.pop(5)
    assert revealed == [
        "wsi_pipeline.api.result.Result",
        "Literal['scored'] | Literal['refused']",
        "float",
        "list[wsi_pipeline.api.result.Result]",
        "str",
        "matplotlib.axes._axes.Axes",
        "xarray.core.dataarray.DataArray",
    ]


def test_the_package_says_that_it_is_typed():
    assert Path(wsi.__file__).with_name("py.typed").is_file()
