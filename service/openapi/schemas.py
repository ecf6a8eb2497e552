"""Rewrites the schemas of the OpenAPI document so that generators of clients understand them.

What the service accepts and returns is unaffected.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_REF = "#/components/schemas/"
_PAGE = re.compile(r"Page_(\w+)_")
# Names that say more outside of this program than those of the classes do.
_NAMES = {
    "Added": "AddedImages",
    "CalibrationBody": "NewCalibration",
    "DatasetInfo": "Dataset",
    "Erased": "Erasure",
    "HeldModel": "WorkerModel",
    "ItemError": "ImageError",
    "ItemResult": "ImageResult",
    "JobQueueInfo": "JobQueue",
    "KeyInfo": "Key",
    "LaneInfo": "ImageQueue",
    "MadeKey": "CreatedKey",
    "Metadata": "PredictMetadata",
    "ModelInfo": "Model",
    "ModelSpec": "PredictModelSpec",
    "ModelState": "RepositoryModel",
    "QuantizeBody": "NewQuantization",
    "Rotation": "KeyRotation",
    "SystemInfo": "System",
    "WantedOutput": "RequestedOutput",
    "WorkerBeat": "Worker",
}


def rename_schemas(document: dict[str, Any]) -> None:
    """Give the components the names that clients see, `JobPage` instead of `Page_Job_`.

    Raises:
        ValueError: Two components would have the same name.
    """
    schemas: dict[str, Any] = document["components"]["schemas"]
    names = {name: _public_name(name) for name in schemas}
    if len(set(names.values())) != len(names):
        raise ValueError("two schemas of the OpenAPI document have the same name")
    for node in _objects(document):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith(_REF):
            node["$ref"] = _REF + names[reference.removeprefix(_REF)]
    renamed = {names[name]: schema | {"title": names[name]} for name, schema in schemas.items()}
    document["components"]["schemas"] = dict(sorted(renamed.items()))


def complete_arrays(document: dict[str, Any]) -> None:
    """Give every array `items`, which many generators need; tuples lose their `prefixItems`."""
    for node in _objects(document):
        if node.get("type") != "array":
            continue
        first, *others = node.pop("prefixItems", [node.get("items", {})])
        node["items"] = first if all(other == first for other in others) else {}


def drop_unused_examples(document: dict[str, Any]) -> None:
    """Remove the examples in the components that nothing refers to."""
    used = {node.get("$ref") for node in _objects(document["paths"])}
    examples: dict[str, Any] = document["components"]["examples"]
    for name in [name for name in examples if f"#/components/examples/{name}" not in used]:
        del examples[name]


def drop_request_defaults(document: dict[str, Any]) -> None:
    """Move the defaults of the fields of all bodies of requests to their descriptions.

    Some generated clients send every default of a schema. Where a field that is not sent means
    something else, as in a training with a preset, that would change the request. Others make the
    caller send each field that has a default, so that a new one would break their programs.
    """
    schemas: dict[str, Any] = document["components"]["schemas"]
    bodies = [
        operation["requestBody"]
        for methods in document["paths"].values()
        for operation in methods.values()
        if "requestBody" in operation
    ]
    seen: set[str] = set()
    while bodies:
        for node in _objects(bodies.pop()):
            if isinstance(node.get("properties"), dict):
                _drop_defaults(node["properties"])
            reference = node.get("$ref")
            if isinstance(reference, str) and reference.startswith(_REF):
                name = reference.removeprefix(_REF)
                if name not in seen:
                    seen.add(name)
                    bodies.append(schemas[name])


def _drop_defaults(properties: dict[str, Any]) -> None:
    for field in properties.values():
        default = field.pop("default", None)
        description = field.get("description", "")
        if default is None or isinstance(default, dict) or "Default" in description:
            continue
        text = json.dumps(default).strip('"')
        field["description"] = f"{description} Default: {text}.".strip()


def _public_name(name: str) -> str:
    if page := _PAGE.fullmatch(name):
        return f"{_public_name(page[1])}Page"
    return _NAMES.get(name, name)


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    """All JSON objects in the document, outermost first."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _objects(child)
