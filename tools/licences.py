"""Check that the licence of every installed package is one that this project may depend on.

`make lint` runs this over the environment that CI installs, and so over all dependencies, those of
the dependencies too. What counts is what a package states: its SPDX `License-Expression`, else its
classifiers, else its `License` field. Which licences are allowed, and which package is an exception
and why, stands in `pyproject.toml` under `tool.licences`.

None of the kept tools does this: `pip-licenses` 5.5 lets a package pass if one of its licences is
allowed, takes an expression of SPDX's for a name and excepts a package whatever its licence;
`liccheck` 0.9 knows no `License-Expression`; `licensecheck` asks PyPI.
"""

import ast
import re
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

# These say that a licence is approved, and not which.
_NO_LICENCE = {"License :: OSI Approved", "License :: DFSG approved"}


def installed() -> Iterable[Distribution]:
    """Return the environment's packages, whatever has been imported.

    Some packages put copies of others that lie within them on `sys.path` when they are imported:
    setuptools does, and which those are depends on its release.
    """
    return distributions(
        path=sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    )


def refusals(packages: Iterable[Distribution], policy: dict[str, Any]) -> list[str]:
    """Return a line for each package whose licence is not allowed."""
    faults = set()
    for package in packages:
        name = canonicalize_name(package.metadata["Name"])
        licences = stated(package, policy["names"])
        allowed = set(policy["allowed"])
        for exception in policy["exceptions"]:
            if any(fnmatch(name, pattern) for pattern in exception["packages"]):
                allowed.update(exception["licences"])
        if not all(permits(licence, allowed) for licence in licences):
            stands = " and ".join(filter(None, licences)) or "none stated"
            faults.add(
                f"{name} {package.version}: its licence, {stands}, is not on the "
                "allow-list. Depend on something else; or, if an Apache-2.0 project may use it, "
                "add it to tool.licences in pyproject.toml, with the reason."
            )
    return sorted(faults)


def stated(package: Distribution, names: dict[str, str]) -> list[str]:
    """Return a package's licences, all of which hold, in SPDX's terms where it or `names` does."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return [expression]
    classifiers = {
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier", [])
        if classifier.startswith("License ::") and classifier not in _NO_LICENCE
    }
    # The field may hold the licence's whole text: its first line names it. Several classifiers do
    # not say whether one may choose among them.
    field = (metadata.get("License") or "").strip().partition("\n")[0]
    return [names.get(words, words) for words in sorted(classifiers) or [field]]


def permits(licence: str, allowed: set[str]) -> bool:
    """Tell whether a licence, or an expression of SPDX's, can be met with allowed ones alone."""
    if licence in allowed:
        return True
    try:
        expression = canonicalize_license_expression(licence)
    except InvalidLicenseExpression:
        return False
    # With its licences replaced by their verdicts, it is an expression of Python's.
    operators = {"AND": "and", "OR": "or"}
    python = re.sub(
        r"[\w.+-]+(?: WITH [\w.+-]+)?",
        lambda word: operators.get(word[0], str(word[0] in allowed)),
        expression,
    )
    return _holds(ast.parse(python, mode="eval").body)


def _holds(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        combine = all if isinstance(node.op, ast.And) else any
        return combine(_holds(part) for part in node.values)
    return isinstance(node, ast.Constant) and node.value is True


def main() -> None:
    policy = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["licences"]
    if faults := refusals(installed(), policy):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
