"""Tries every regular expression of the code with texts that are made to take it long.

Python's expressions backtrack: after a repetition, whatever follows is tried at each of its
lengths. For each repetition in an expression, the texts come to it as a match does, repeat what it
repeats, and then end with something that nothing expects.
"""

import ast
import importlib
import itertools
import pkgutil
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("service", "contracts", "models", "database")
# They see no client's text.
_TRUSTED = (".migrations.env", ".networks.loading", ".settings", ".listing", ".listed_files")
_METHODS = ("match", "fullmatch", "search", "finditer", "findall", "sub", "split")
_CHARACTERS = " \t\n09aAzZ-.:_\"'/%=,;()[]#+\\?!\x00\x7f\xe9\u2028"
_ENDS = ("", "\x00", "!", " ", "\n")
# Small ones first, for those that take exponential time.
_SIZES = (16, 22, 64, 256, 1024, 4096, 8192, 16384)
_SLOW_MS = 2.0
_STOP_MS = 50.0
_GROWTH = 2.8  # at twice the size: 2 is linear, 4 quadratic
_LONG = 16  # repetitions that end before cost little
_CLASSES = {"SPACE": r"\s", "DIGIT": r"\d", "WORD": r"\w"}

_parser: Any = importlib.import_module("re._parser")


@dataclass(frozen=True, slots=True)
class Found:
    """An expression and how it is used.

    Attributes:
        place: Where it is.
        pattern: The expression.
        methods: Those that are called.
    """

    place: str
    pattern: re.Pattern[Any]
    methods: tuple[str, ...]


def slow_patterns(packages: Iterable[str] = PACKAGES) -> list[str]:
    """Those expressions that take more than linear time, one line each."""
    return [line for found in patterns(packages) if (line := slowness(found))]


def patterns(packages: Iterable[str]) -> list[Found]:
    """All expressions of those packages."""
    by_pattern: dict[re.Pattern[Any], tuple[set[str], set[str]]] = {}
    for module in _modules(packages):
        source = Path(module.__file__ or "").read_text()
        for name, pattern in _bound(vars(module)):
            places, methods = by_pattern.setdefault(pattern, (set(), set()))
            places.add(f"{module.__name__}.{name}")
            called = rf"\.({'|'.join(_METHODS)})\("
            methods.update(re.findall(rf"\b{name}{called}", source) or re.findall(called, source))
        for line, method, text in _inline(source, vars(module)):
            places, methods = by_pattern.setdefault(re.compile(text), (set(), set()))
            places.add(f"{module.__name__}:{line}")
            methods.add(method)
    return [
        Found(" ".join(sorted(places)), pattern, tuple(sorted(methods)) or _METHODS[:3])
        for pattern, (places, methods) in by_pattern.items()
    ]


def _modules(packages: Iterable[str]) -> Iterator[ModuleType]:
    for package in packages:
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            # What is not installed here belongs to one kind of worker.
            if not info.name.endswith(_TRUSTED):
                with suppress(ImportError):
                    yield importlib.import_module(info.name)


def _bound(names: Mapping[str, object]) -> Iterator[tuple[str, re.Pattern[Any]]]:
    for name, value in names.items():
        values: Iterable[object] = value if isinstance(value, list | tuple | set) else [value]
        for one in value.values() if isinstance(value, dict) else values:
            if isinstance(one, re.Pattern):
                yield name, one


def _inline(source: str, names: Mapping[str, object]) -> Iterator[tuple[int, str, str | bytes]]:
    """Expressions in calls of `re.match` and its like: line, method and text."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="re"), attr=method), args=[first, *_]
            ) if method in _METHODS:
                value = getattr(first, "value", None)
                text = names.get(first.id) if isinstance(first, ast.Name) else value
                if isinstance(text, str | bytes):
                    yield node.lineno, method, text


def slowness(found: Found) -> str:
    """What makes an expression take more than linear time; empty if nothing does."""
    for method, (prefix, unit, end) in itertools.product(found.methods, set(texts(found.pattern))):
        took = dict[int, float]()
        for size in _SIZES:
            took[size] = _milliseconds(found.pattern, method, prefix, unit, end, size)
            if took[size] > _STOP_MS:
                break
        *_, before, last = took
        is_slow = took[last] > _STOP_MS or took[last] > max(_SLOW_MS, _GROWTH * took[before])
        if is_slow:
            text = f"{prefix!r} + {unit!r} * n + {end!r}"
            return f"{found.place}: {took[last]:.1f} ms to {method} {last} characters of {text}"
    return ""


def _milliseconds(
    pattern: re.Pattern[Any], method: str, prefix: str, unit: str, end: str, size: int
) -> float:
    text: Any = prefix + unit * (size // len(unit)) + end
    if isinstance(pattern.pattern, bytes):
        text = text.encode("latin-1", "replace")
    call = getattr(pattern, method)
    least = float("inf")
    for _ in range(2):
        began = time.thread_time()
        if method == "finditer":
            for _ in call(text):
                pass
        else:
            call(text[:0], text) if method == "sub" else call(text)
        least = min(least, (time.thread_time() - began) * 1000)
        if least < _SLOW_MS / 10:
            break
    return least


def texts(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str, str]]:
    """Texts for an expression: their beginning, what is repeated, and their end."""
    parsed = _parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)
    for prefix, unit in _repetitions(parsed, ""):
        for end in _ENDS:
            yield prefix, unit, end
        if prefix:
            yield "", prefix + unit, "\x00"
            yield "", prefix, "\x00"
    for character in _CHARACTERS:
        yield "", character, "\x00"


def _repetitions(items: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """What comes before each repetition in a match, and what it repeats."""
    for kind, value in items:
        if str(kind).endswith("_REPEAT") and value[1] > _LONG:
            units = (_sample(value[2], character) for character in _CHARACTERS)
            yield from ((prefix, unit) for unit in units if unit)
        for part in _parts(str(kind), value):
            yield from _repetitions(part, prefix)
        prefix += _sample([(kind, value)])


def _parts(kind: str, value: Any) -> list[Any]:
    """The expressions that a part of one consists of."""
    match kind:
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT" | "SUBPATTERN":
            return [value[-1]]
        case "ATOMIC_GROUP":
            return [value]
        case "ASSERT" | "ASSERT_NOT":
            return [value[1]]
        case "BRANCH":
            return list(value[1])
    return []


def _sample(items: Any, preferred: str = "a") -> str:
    """A short match, of the preferred character where that is possible."""
    text = ""
    for kind, value in items:
        match str(kind):
            case "LITERAL":
                text += chr(value)
            case "NOT_LITERAL" | "ANY" | "IN":
                accepted = (c for c in preferred + _CHARACTERS if _accepts(str(kind), value, c))
                text += next(accepted, "")
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                text += _sample(value[-1], preferred) * value[0]
            case "SUBPATTERN" | "ATOMIC_GROUP" | "BRANCH":
                text += _sample(_parts(str(kind), value)[0], preferred)
    return text


def _accepts(kind: str, value: Any, character: str) -> bool:
    code = ord(character)
    if kind == "ANY":
        return character != "\n"
    if kind == "NOT_LITERAL":
        return bool(code != value)
    negated, is_in = False, False
    for item, argument in value:
        match str(item):
            case "NEGATE":
                negated = True
            case "LITERAL":
                is_in |= code == argument
            case "RANGE":
                is_in |= argument[0] <= code <= argument[1]
            case "CATEGORY":
                _, *negation, name = str(argument).split("_")
                is_in |= bool(re.match(_CLASSES[name], character)) != ("NOT" in negation)
    return is_in != negated
