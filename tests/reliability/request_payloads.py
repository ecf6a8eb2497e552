"""Requests that are as expensive as their sender can make them, for every route.

A payload fills one place of a request to its limit with something that parsers are known to handle
badly. Places are the headers that the service reads, its path and query, and the fields of its
bodies, which are taken from the OpenAPI document.
"""

import gzip
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.connections.connection_limits import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PATH_BYTES
from service.middleware.body_limit import MAX_JSON_BYTES, max_values_of

_ROOM = 512  # for the rest of a head
HEAD_BYTES = MAX_HEAD_BYTES - _ROOM
_PATH_BYTES = MAX_PATH_BYTES - 200
_HEADERS = MAX_HEADERS - 8
_PART_HEADER_BYTES = 4096 - 150
_FIELD_BYTES = 100_000  # for one field of a body
_FORM_BYTES = 1024 * 1024
_BOUNDARY = "b0undary"
FORM_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"

# What each header is filled after, so that its parser comes as far as the filling.
FILLED_HEADERS: dict[str, tuple[str, ...]] = {
    "Accept": ("", "application/json;q=", "text/html;level="),
    "Accept-Encoding": ("", "gzip;q="),
    "Accept-Language": ("", "de;q="),
    "Access-Control-Request-Headers": ("",),
    "Access-Control-Request-Method": ("", "GET"),
    "Authorization": ("", "Bearer ", "Bearer opsin_0123456789ab_"),
    "Baggage": ("", "a="),
    "Connection": ("", "keep-alive,"),
    "Content-Disposition": ("form-data; name=",),
    "Content-Encoding": ("", "gzip,"),
    "Content-Length": ("",),
    "Content-Type": (
        "",
        "application/json",
        "application/json;charset=",
        "multipart/form-data;",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        "image/",
    ),
    "Cookie": ("", "opsin_session=", "a="),
    "Expect": ("", "100-continue"),
    "Forwarded": ("", "for="),
    "Host": ("", "localhost:", "["),
    "Idempotency-Key": ("", '"'),
    "If-Match": ("", '"'),
    "If-Modified-Since": ("", "Mon, 30 Nov 2026 "),
    "If-None-Match": ("", '"', 'W/"'),
    "If-Range": ("", '"', "Mon, 30 Nov 2026 "),
    "If-Unmodified-Since": ("",),
    "Inference-Header-Content-Length": ("",),
    "Last-Event-ID": ("",),
    "Opsin-Challenge": ("", "0123456789ab."),
    "Origin": ("", "http://localhost", "http://["),
    "Prefer": ("", "respond-async,", "wait="),
    "Range": ("", "bytes=", "bytes", "bytes=1-", "bytes=1-2,"),
    "Referer": ("",),
    "Sec-Fetch-Site": ("",),
    "Traceparent": ("", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "01-"),
    "Tracestate": ("", "a="),
    "Transfer-Encoding": ("", "chunked,"),
    "Upgrade": ("h2c",),
    "User-Agent": ("",),
    "X-API-Key": ("", "opsin_0123456789ab_"),
    "X-CSRF-Token": ("",),
    "X-Forwarded-For": ("", "127.0.0.1,"),
    "X-Forwarded-Host": ("",),
    "X-Forwarded-Prefix": ("", "/"),
    "X-Forwarded-Proto": ("",),
    "X-Request-Id": ("",),
    "X-Timeout-Ms": ("",),
}
# Repeated, and followed by a character that ends no token.
_FILLINGS = (
    *" \t,;\"\\=1a-:./*[(%'",
    *("a=b;", "a,", '"a",', '\\"', "%41", "%", "\xe9", " ,", "a;q=0.1,", "1-2,", "::1,", "(a", "é"),
)
_PATHS = (
    "/",
    "a/",
    ":",
    ".",
    "../",
    "./",
    "a:",
    "%2f",
    "%41",
    "%",
    "%e9",
    "1",
    "a",
    "-",
    "_",
    "%20",
)
_QUERIES = ("&", "a&", "a=b&", "=", "%41", "%", "+", "1", "a", ";", "%e9", "[", "a[b]=&")
_PART_PLACES = (
    *("; filename=", '; filename="', "; filename*=utf-8''", "; ", "\r\nX: "),
    "\r\nContent-Transfer-Encoding: ",
)
_STRINGS = {
    "spaces": " ",
    "digits": "1",
    "letters": "a",
    "dashes": "-",
    "colons": ":",
    "slashes": "/",
    "escapes": "\\u0041",
    "quotes": '\\"',
    "line feeds": "\\n",
    "emoji": "\\ud83d\\ude00",
    "parentheses": "(",
    "equals": "a=1,",
    "accents": "é",
}


@dataclass(frozen=True, slots=True)
class Payload:
    """One request to a route.

    Attributes:
        name: What is odd about it.
        headers: Sent instead of, or in addition to, the usual ones.
        suffix: Appended to the path.
        body: Its body; None for that of the plain request.
        is_chunked: Whether the body says its own length.
    """

    name: str
    headers: tuple[tuple[str, str], ...] = ()
    suffix: str = ""
    body: bytes | None = None
    is_chunked: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path.

    Attributes:
        path: With example values for its parameters.
        template: As in the OpenAPI document.
        content_type: Of the plain request; empty if it has no body.
        body: Of the plain request.
        fields: The properties of its JSON body or of its form.
        example: A valid JSON body.
        kind: Operations of one kind read their heads alike, for the most part.
        is_refused: Whether the path has no such method.
        is_file: Whether it answers with something else than JSON.
    """

    method: str
    path: str
    template: str
    content_type: str = ""
    body: bytes = b""
    fields: tuple[str, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)
    kind: tuple[Any, ...] = ()
    is_refused: bool = False
    is_file: bool = False

    def bodies(self) -> Iterator[Payload]:
        """Its bodies."""
        if self.content_type == FORM_TYPE:
            yield from _forms(self.fields)
        elif self.content_type:
            yield from _json_bodies(self)


def heads() -> Iterator[Payload]:
    """The payloads for the head of any request."""
    for name, prefixes in FILLED_HEADERS.items():
        for prefix, filling in itertools.product(prefixes, _FILLINGS):
            value = _filled(filling, HEAD_BYTES - len(prefix))
            yield Payload(f"{name}: {prefix}{filling!r}…", ((name, f"{prefix}{value}!"),))
        several = min(_HEADERS, HEAD_BYTES // (len(name) + len(prefixes[-1]) + 5))
        yield Payload(f"{several} times {name}", ((name, prefixes[-1] + "a"),) * several)
    for count in (_HEADERS, HEAD_BYTES // 8):
        others = tuple((f"x{number}", "") for number in range(count))
        yield Payload(f"{count} headers", others)
    for filling, size in itertools.product(_PATHS, (_PATH_BYTES, HEAD_BYTES)):
        yield Payload(f"{size} of path {filling!r}…", suffix="/" + _filled(filling, size))
    for filling in _QUERIES:
        yield Payload(f"query {filling!r}…", suffix="?" + _filled(filling, HEAD_BYTES))
    names = itertools.chain(("limit", "cursor", "model", "top_k", "a"), _QUERY_NAMES)
    for name in names:
        for filling in ("1", " ".replace(" ", "+"), "a", "-", ":", "%41", ","):
            yield Payload(f"?{name}={filling}…", suffix=f"?{name}={_filled(filling, HEAD_BYTES)}")
        few = "&".join([f"{name}=1"] * 99)
        yield Payload(f"99 times {name}", suffix=f"?{few}")


_QUERY_NAMES = ("q", "status", "since", "until", "order", "subject_id", "version", "class")


def _filled(unit: str, size: int) -> str:
    return unit * (size // len(unit))


def _json_bodies(operation: Operation) -> Iterator[Payload]:
    size, count = MAX_JSON_BYTES - 100, max_values_of(operation.template) - 50
    keys = ",".join(f'"k{number}":0' for number in range(count))
    whole = {
        "nested lists": "[" * size,
        "nested objects": '{"a":' * (size // 5),
        "closed nested lists": "[" * (size // 2) + "]" * (size // 2),
        "unknown keys": "{" + keys + "}",
        "too many keys": "{" + ",".join(f'"k{number}":0' for number in range(size // 16)) + "}",
        "long unknown keys": "{"
        + ",".join(f'"{number:0{size // count - 6}}":0' for number in range(count))
        + "}",
        "a long unknown key": '{"' + "k" * size + '":0}',
        "empty lists": "[" + "[]," * count + "[]]",
        "empty objects": "[" + "{}," * count + "{}]",
        "a long string": '"' + "a" * size + '"',
        "escapes": '"' + "\\u0041" * (size // 6) + '"',
        "half surrogates": '"' + "\\ud800" * (size // 6) + '"',
        "an unfinished string": '"' + "a" * size,
        "backslashes": '"' + "\\" * size,
        "spaces": " " * size,
        "spaces in an object": "{" + " " * size,
        "a long integer": "9" * size,
        "a long fraction": "0." + "9" * size,
        "a long exponent": "1e" + "9" * size,
        "a large exponent": "1e400",
        "zero bytes": "\0" * size,
    }
    for name in operation.fields[:2]:
        whole[f"duplicates of {name}"] = "{" + ",".join([f'"{name}":0'] * count) + "}"
    for title, text in whole.items():
        yield Payload(f"JSON: {title}", body=text.encode())
    yield Payload("chunks of a byte", body=b"1\r\n \r\n" * 30_000 + b"0\r\n\r\n", is_chunked=True)
    compressed = gzip.compress(b" " * size)
    yield Payload("JSON: gzip of spaces", (("Content-Encoding", "gzip"),), body=compressed)
    for name in operation.fields:
        for title, value in _values(count, operation.example.get(name)):
            text = json.dumps({**operation.example, name: "@@"}).replace('"@@"', value)
            yield Payload(f"{name}: {title}", body=text[:MAX_JSON_BYTES].encode())


def _values(count: int, example: Any) -> Iterator[tuple[str, str]]:
    """JSON in the place of one field."""
    for name, unit in _STRINGS.items():
        yield name, f'"{_filled(unit, _FIELD_BYTES)}!"'
    yield "a long integer", "9" * _FIELD_BYTES
    yield "an integer", "9" * 4000
    yield "a fraction", "0." + "9" * _FIELD_BYTES
    yield "an exponent", "1e99999"
    yield "nested", "[" * 1000 + "]" * 1000
    yield "nested objects", '{"a":' * 200 + "0" + "}" * 200
    for item in ("0", '""', "[]", "{}", '"a"', "null", "1.5e300", '"aa"', '{"a":0}'):
        yield f"list of {item}", f"[{','.join([item] * count)}]"
    texts = ",".join(f'"text {number}"' for number in range(count))
    yield "list of different texts", f"[{texts}]"
    long = f'"{"a " * (MAX_JSON_BYTES // 2 // count - 4)}"'
    yield "list of long texts", f"[{','.join([long] * (count - 10))}]"
    pairs = ",".join(f'"k{number}":0' for number in range(count))
    yield "object", "{" + pairs + "}"
    words = ",".join(f'"k{number}":"a"' for number in range(count))
    yield "object of texts", "{" + words + "}"
    if isinstance(example, list) and example:
        item = json.dumps(example[0])
        times = min(count // (item.count(",") + 1), MAX_JSON_BYTES // (len(item) + 1) - 1)
        yield "list of valid items", f"[{','.join([item] * times)}]"
    elif isinstance(example, dict) and example:
        item = json.dumps(next(iter(example.values())))
        times = min(count // (item.count(",") + 1), MAX_JSON_BYTES // (len(item) + 20) - 1)
        valid = ",".join(f'"k{number}":{item}' for number in range(times))
        yield "object of valid values", "{" + valid + "}"


def _part(headers: str, value: str = "a") -> str:
    return f"--{_BOUNDARY}\r\n{headers}\r\n\r\n{value}\r\n"


def _forms(fields: Iterable[str]) -> Iterator[Payload]:
    names, size = [*fields, "unknown"], _FORM_BYTES
    end = f"--{_BOUNDARY}--\r\n"
    disposition = 'Content-Disposition: form-data; name="{}"'
    parts: dict[str, Callable[[str], str]] = {
        "texts": lambda name: _part(disposition.format(name)),
        "empty files": lambda name: _part(disposition.format(name) + '; filename=""', ""),
        "small files": lambda name: _part(disposition.format(name) + '; filename="a.png"'),
    }
    for name, (title, make) in itertools.product(names, parts.items()):
        yield _form(f"{name}: many {title}", make(name) * (size // len(make(name))) + end)
    for name, (title, unit) in itertools.product(names, _STRINGS.items()):
        value = _filled(unit, _FIELD_BYTES)
        yield _form(f"{name}: {title}", _part(disposition.format(name), value) + end)
    name = names[0]
    head = disposition.format(name)
    for filling in _FILLINGS:
        long = _filled(filling, _PART_HEADER_BYTES)
        for place in _PART_PLACES:
            part = _part(f"{head}{place}{long}!")
            yield _form(f"part {place.strip()!r}{filling!r}…", part + end)
            short = _part(f"{head}{place}{_filled(filling, 500)}!")
            yield _form(f"parts {place.strip()!r}{filling!r}…", short * 100 + end)
    codecs = (
        "punycode",
        "idna",
        "utf-7",
        "bz2",
        "unicode_escape",
        "hz",
        "iso2022_jp",
        "cp037",
        "nope",
    )
    for codec, filling in itertools.product(codecs, ("a", "%41", "-", "%e9", "+", "~{")):
        long = _filled(filling, _PART_HEADER_BYTES)
        part = _part(f"{head}; filename*={codec}''{long}")
        yield _form(f"filename*={codec}''{filling}…", part * 20 + end)
        word = _part(f'{head}; filename="=?{codec}?q?{long}?="')
        yield _form(f"filename==?{codec}?q?{filling}…", word * 20 + end)
    words = _part(f'{head}; filename="{"=?utf-8?b?YQ==?= " * 400}"')
    yield _form("filename of encoded words", words * 20 + end)
    many = "".join(f"\r\nx{number}: a" for number in range(1000))
    yield _form("many headers of a part", _part(head + many) + end)
    for unit in (
        f"\r\n--{_BOUNDARY[:-1]}",
        "\r",
        "\r\n",
        "-",
        "\r\n--",
        f"\r\n--{_BOUNDARY}x",
        "\n",
    ):
        yield _form(f"content {unit!r}…", _part(head, _filled(unit, size)) + end)
        yield _form(f"file {unit!r}…", _part(f'{head}; filename="a"', _filled(unit, size)) + end)
        yield _form(f"preamble {unit!r}…", _filled(unit, size) + end)
        yield _form(f"epilogue {unit!r}…", _part(head) + end + _filled(unit, size))
    for unit in (" ", "\t", "-"):
        yield _form(f"after a boundary {unit!r}…", f"--{_BOUNDARY}" + _filled(unit, size))


def _form(name: str, body: str) -> Payload:
    return Payload(f"form: {name}", body=body.encode())


def operations(
    document: Mapping[str, Any], hidden: Iterable[tuple[str, str]], existing: Mapping[str, str]
) -> list[Operation]:
    """The operations of an OpenAPI document, and those that it does not list.

    Args:
        document: The document.
        hidden: Methods and paths that it may lack.
        existing: Paths by their templates, and values by parameters such as `{job_id}`, instead of
            the document's examples, for all methods but DELETE.
    """
    found = {}
    for path, item in document["paths"].items():
        for method, described in item.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                found[method.upper(), path] = _operation(
                    document, method, path, described, existing
                )
    for method, path in hidden:
        plain = existing.get(path, path)
        for name in ("model", "name", "version", "label", "region", "digest"):
            plain = plain.replace(f"{{{name}}}", "a")
        is_file = method == "GET" and not path.startswith("/v")
        operation = Operation(method, plain, path, kind=("",), is_file=is_file)
        found.setdefault((method, path), operation)
    return list(found.values())


def _operation(
    document: Mapping[str, Any],
    method: str,
    path: str,
    described: Mapping[str, Any],
    existing: Mapping[str, str],
) -> Operation:
    existing = {} if method == "delete" else existing
    sent = existing.get(path, path)
    for parameter in (_resolved(document, one) for one in described.get("parameters", ())):
        if parameter["in"] == "path":
            name = f"{{{parameter['name']}}}"
            sent = sent.replace(name, existing.get(name) or str(_example(parameter)))
    contents = described.get("requestBody", {}).get("content", {})
    answers = described["responses"].get("200", {}).get("content", {})
    chosen = next((t for t in ("multipart/form-data", "application/json") if t in contents), "")
    is_file = method == "get" and tuple(answers)[:1] != ("application/json",)
    kind = (chosen, is_file)
    if not chosen:
        return Operation(method.upper(), sent, path, kind=kind, is_file=is_file)
    schema = _resolved(document, contents[chosen].get("schema", {}))
    fields = tuple(schema.get("properties", {}))
    if chosen == "application/json":
        found = _example(contents[chosen]) or _example(schema)
        example = found if isinstance(found, dict) else {}
        return Operation(method.upper(), sent, path, chosen, b"{}", fields, example, kind)
    plain = f"--{_BOUNDARY}--\r\n".encode()
    return Operation(method.upper(), sent, path, FORM_TYPE, plain, fields, kind=kind)


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if reference := schema.get("$ref"):
        *_, section, name = reference.split("/")
        schema = document["components"][section][name]
    for alternative in (
        *schema.get("anyOf", ()),
        *schema.get("oneOf", ()),
        *schema.get("allOf", ()),
    ):
        found = _resolved(document, alternative)
        if found.get("properties"):
            return found
    return schema


def _example(described: Mapping[str, Any]) -> Any:
    """An example of a parameter, a body or a schema; None without one."""
    if "example" in described:
        return described["example"]
    examples = described.get("examples") or described.get("schema", {}).get("examples")
    if isinstance(examples, Mapping):
        return next(iter(examples.values())).get("value")
    return examples[0] if examples else None
