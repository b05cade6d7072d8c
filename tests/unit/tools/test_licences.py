"""The checks of `make lint` on what the project depends on: each must be able to fail."""

import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tools.licences import PYPROJECT, installed, refusals

POLICY = tomllib.loads(PYPROJECT.read_text())["tool"]["licences"]
APPROVED = "Classifier: License :: OSI Approved ::"
GPL_AND_ARTISTIC = [
    f"{APPROVED} Artistic License",
    f"{APPROVED} GNU General Public License (GPL)",
    f"{APPROVED} GNU General Public License v2 or later (GPLv2+)",
]


def _lay_package(path: Path, name: str, *metadata: str) -> None:
    folder = path / f"{name}-1.2.dist-info"
    folder.mkdir()
    head = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.2"]
    (folder / "METADATA").write_text("\n".join([*head, *metadata]) + "\n")


@pytest.fixture
def said_of(tmp_path):
    """What is said of an installed package whose metadata holds these lines."""

    def said_of(*metadata: str, name: str = "Some_Package") -> str:
        _lay_package(tmp_path, name, *metadata)
        return "\n".join(refusals(distributions(path=[str(tmp_path)]), POLICY))

    return said_of


def test_all_that_is_installed_may_be_depended_on():
    packages = list(installed())
    assert {"torch", "zarr", "ruff"} <= {package.metadata["Name"] for package in packages}
    assert refusals(packages, POLICY) == []


def test_copies_that_a_package_brings_on_the_path_are_not_installed(tmp_path, monkeypatch):
    _lay_package(tmp_path, "autocommand", "License: LGPLv3")
    monkeypatch.syspath_prepend(tmp_path)
    assert "autocommand" in {package.metadata["Name"] for package in distributions()}
    assert "autocommand" not in {package.metadata["Name"] for package in installed()}


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        (["License-Expression: AGPL-3.0-only"], "AGPL-3.0-only"),
        (["License-Expression: AGPL-3.0-or-later AND MIT"], "AGPL-3.0-or-later AND MIT"),
        (["License-Expression: MIT AND (GPL-3.0-only OR AGPL-3.0-only)"], "MIT AND (GPL-3.0-only"),
        (["License-Expression: GPL-2.0-only WITH Classpath-exception-2.0"], "GPL-2.0-only WITH"),
        (["License-Expression: LGPL-3.0-only"], "LGPL-3.0-only"),
        (
            ["License: MIT", f"{APPROVED} GNU Affero General Public License v3"],
            "GNU Affero General Public License v3",
        ),
        (
            [f"{APPROVED} MIT License", f"{APPROVED} GNU General Public License v3 (GPLv3)"],
            "GNU General Public License v3 (GPLv3) and MIT",
        ),
        (["License: AGPL-3.0"], "AGPL-3.0"),
        (["License: Ask the author"], "Ask the author"),
        (["License: UNKNOWN"], "UNKNOWN"),
        (["Classifier: License :: OSI Approved"], "none stated"),
        ([], "none stated"),
        (GPL_AND_ARTISTIC, "Artistic License and GNU General Public License"),
    ],
)
def test_what_may_not_be_depended_on(said_of, metadata, licence):
    said = said_of(*metadata)
    assert said.startswith(f"some-package 1.2: its licence, {licence}")
    assert said.count("\n") == 0
    assert "is not on the allow-list. Depend on something else; or, " in said


@pytest.mark.parametrize(
    "metadata",
    [
        ["License-Expression: MIT"],
        ["License-Expression: apache-2.0"],
        ["License-Expression: GPL-3.0-only OR Apache-2.0"],
        ["License-Expression: (GPL-2.0-only OR MIT) AND Apache-2.0 WITH LLVM-exception"],
        # The expression is the newer word of the two.
        ["License-Expression: MIT", GPL_AND_ARTISTIC[1]],
        ["License: see LICENSE", f"{APPROVED} BSD License"],
        ["License: 3-Clause BSD License"],
    ],
)
def test_what_may_be_depended_on(said_of, metadata):
    assert said_of(*metadata) == ""


def test_an_exception_is_for_one_package_and_one_licence(said_of):
    assert said_of(*GPL_AND_ARTISTIC, name="text_unidecode") == ""
    assert "AGPL-3.0-only" in said_of("License-Expression: AGPL-3.0-only", name="openslide-bin")
    assert all(exception["reason"] for exception in POLICY["exceptions"])


def test_no_agpl_or_gpl_is_on_the_list():
    assert not [licence for licence in POLICY["allowed"] if "GPL" in licence]


def recipe_of(target: str) -> list[str]:
    """The commands of a target of the Makefile, as make would run them."""
    lines = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", target],
        cwd=PYPROJECT.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return lines.stdout.splitlines()


@pytest.mark.parametrize(
    ("package", "imported", "fault"),
    [
        ("wsi_pipeline", "prefect", "DEP004 'prefect' imported but declared as a dev dependency"),
        ("wsi_pipeline", "skimage", "DEP004 'skimage'"),
        ("flows", "skimage", "DEP004 'skimage'"),
        ("training", "prefect", "DEP004 'prefect'"),
        ("training", "sklearn", "DEP004 'sklearn'"),
        ("tests", "alembic", "DEP003 'alembic' imported but it is a transitive"),
        ("tests", "nothing_of_the_kind", "DEP001 'nothing_of_the_kind' imported but missing"),
    ],
)
def test_an_import_that_is_not_declared_fails(tmp_path, package, imported, fault):
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.read_text())
    (tmp_path / package).mkdir()
    (tmp_path / package / "module.py").write_text(f"import {imported}\n")
    [command] = [
        line for line in recipe_of("lint") if f" {package} --" in line and "deptry" in line
    ]
    deptry = str(Path(sys.executable).with_name("deptry"))
    command = command.replace(".venv/bin/deptry", deptry)
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert fault in done.stdout + done.stderr
    (tmp_path / package / "module.py").write_text("import numpy\n")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True)
