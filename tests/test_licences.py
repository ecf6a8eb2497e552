"""No package comes in under a licence that nobody has looked at."""

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


def stated(package: Distribution) -> str | None:
    """What a package says of its licence, in SPDX; None if no program could tell."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = metadata.get_all("Classifier") or []
    words = [one.split("::")[-1].strip() for one in classifiers if one.startswith("License ::")]
    words = (metadata.get("License") or "").strip().splitlines()[:1] + words
    for word in words:
        meaning = RULES["meanings"].get(word, word)
        try:
            SPDX.parse(meaning, validate=True)
        except ExpressionError:
            continue  # no name of a licence, but its first words
        return str(meaning)
    said: str | None = RULES["said_elsewhere"].get(package.name.lower())
    return said


def allows(expression: LicenseExpression, allowed: set[str]) -> bool:
    if isinstance(expression, SPDX.OR):
        return any(allows(one, allowed) for one in expression.args)
    if isinstance(expression, SPDX.AND):
        return all(allows(one, allowed) for one in expression.args)
    return str(expression) in allowed


def is_allowed(name: str, licence: str) -> bool:
    own = RULES["exceptions"].get(name, {}).get("licence")
    return allows(SPDX.parse(licence, validate=True), {*RULES["allowed"], own})


@pytest.mark.parametrize("file", ["api.txt", "worker.txt"])
def test_every_package_may_be_used(file: str) -> None:
    bad, read = {}, 0
    for name in pins_of(REQUIREMENTS / file):
        try:
            licence = stated(distribution(name))
        except PackageNotFoundError:
            continue  # of another platform, or of the build
        read += 1
        if licence is None or not is_allowed(name, licence):
            bad[name] = licence
    assert read > 30
    assert bad == {}, "look at them, then change requirements/licences.toml"


@pytest.mark.parametrize(
    ("name", "licence", "expected"),
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
def test_the_rule_tells_one_from_the_other(name: str, licence: str, expected: bool) -> None:
    assert is_allowed(name, licence) is expected


def test_every_rule_is_needed() -> None:
    needed: set[Any] = set()
    for file in ("api.txt", "worker.txt"):
        needed |= pins_of(REQUIREMENTS / file).keys()
    for table in ("exceptions", "said_elsewhere"):
        assert RULES[table].keys() <= needed
