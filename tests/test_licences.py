"""Every package has a license that was reviewed."""

import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from license_expression import ExpressionError, LicenseExpression, get_spdx_licensing

from cli.checks.packages import pins_of

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
RULES = tomllib.loads((REQUIREMENTS / "licences.toml").read_text())
SPDX = get_spdx_licensing()


def declared_license(package: Distribution) -> str | None:
    """The license that a package declares, as an SPDX expression; None if it declares none."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = metadata.get_all("Classifier") or []
    words = [c.split("::")[-1].strip() for c in classifiers if c.startswith("License ::")]
    words = (metadata.get("License") or "").strip().splitlines()[:1] + words
    for word in words:
        meaning = RULES["meanings"].get(word, word)
        try:
            SPDX.parse(meaning, validate=True)
        except ExpressionError:
            continue  # the first line of a license text, not a name
        return str(meaning)
    stated: str | None = RULES["said_elsewhere"].get(package.name.lower())
    return stated


def allows(expression: LicenseExpression, allowed: set[str]) -> bool:
    if isinstance(expression, SPDX.OR):
        return any(allows(part, allowed) for part in expression.args)
    if isinstance(expression, SPDX.AND):
        return all(allows(part, allowed) for part in expression.args)
    return str(expression) in allowed


def is_allowed(name: str, license_: str) -> bool:
    own = RULES["exceptions"].get(name, {}).get("licence")
    return allows(SPDX.parse(license_, validate=True), {*RULES["allowed"], own})


@pytest.mark.parametrize("file", ["api.txt", "worker.txt"])
def test_every_package_has_an_allowed_license(file: str) -> None:
    refused, checked = {}, 0
    for name in pins_of(REQUIREMENTS / file):
        try:
            license_ = declared_license(distribution(name))
        except PackageNotFoundError:
            continue  # for another platform, or only for building
        checked += 1
        if license_ is None or not is_allowed(name, license_):
            refused[name] = license_
    assert checked > 30
    assert refused == {}, "review them, then change requirements/licences.toml"


@pytest.mark.parametrize(
    ("name", "license_", "expected"),
    [
        ("a", "MIT", True),
        ("a", "MIT AND Zlib", True),
        ("a", "GPL-3.0-only OR MIT", True),
        ("a", "GPL-3.0-only AND MIT", False),
        ("a", "AGPL-3.0-only", False),
        ("a", "LGPL-3.0-only", False),
        ("psycopg", "LGPL-3.0-only", True),
    ],
)
def test_is_allowed_evaluates_expressions(name: str, license_: str, expected: bool) -> None:
    assert is_allowed(name, license_) is expected


def test_every_rule_is_needed() -> None:
    needed: set[Any] = set()
    for file in ("api.txt", "worker.txt"):
        needed |= pins_of(REQUIREMENTS / file).keys()
    for table in ("exceptions", "said_elsewhere"):
        assert RULES[table].keys() <= needed
