"""The OpenAPI document as the tools of others read it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from service.openapi.schemas import complete_arrays, rename_schemas
from tests.openapi.document import document as made_document

Node = dict[str, Any]
BASE = "urn:opsin"
SINGLE_IMAGE = ("/v1/activations", "/v1/faces/detect", "/v1/faces/identify")


@pytest.fixture(scope="module")
def document() -> Node:
    return made_document()


@pytest.fixture(scope="module")
def absolute(document: Node) -> Node:
    """The document with references that can be followed from any part of it."""
    copy: Node = json.loads(json.dumps(document).replace('"#/components', f'"{BASE}#/components'))
    return copy


def validator_of(schema: Node, absolute: Node) -> OAS31Validator:
    registry = Registry().with_resource(BASE, Resource(absolute, DRAFT202012))
    return OAS31Validator(schema, registry=registry)


def operations(document: Node) -> list[tuple[str, Node]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def objects(node: Any, where: str = "#") -> Iterator[tuple[str, Node]]:
    if isinstance(node, dict):
        yield where, node
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in items:
            yield from objects(child, f"{where}/{key}")


def test_the_document_is_valid_and_of_its_version(document: Node) -> None:
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()
    assert [where for where, node in objects(document) if "itemSchema" in node] == []


def examples(document: Node) -> Iterator[tuple[str, Node, Any]]:
    """Every example with its schema: of bodies, parameters and headers, and within schemas."""
    for where, node in objects(document):
        schema = node.get("schema")
        if isinstance(schema, dict):
            if "example" in node:
                yield where, schema, node["example"]
            for name, example in node.get("examples", {}).items():
                shared = document["components"]["examples"]
                held = shared[example["$ref"].split("/")[-1]] if "$ref" in example else example
                yield f"{where} {name}", schema, held["value"]
        if "/schema" in where and "type" in node and isinstance(node.get("examples"), list):
            for example in node["examples"]:
                yield where, node, example


def test_every_example_is_valid_by_its_schema(absolute: Node) -> None:
    checked = 0
    for where, schema, example in examples(absolute):
        validator = validator_of(schema, absolute)
        wrong = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(example)]
        assert not wrong, f"{where}: {wrong}"
        checked += 1
    assert checked > 300


def test_an_example_keeps_its_nulls(document: Node) -> None:
    created = document["paths"]["/v1/keys"]["post"]["responses"]["201"]
    assert created["content"]["application/json"]["example"]["revoked_at"] is None


def test_every_default_is_valid_by_its_schema(absolute: Node) -> None:
    for where, node in objects(absolute["components"]["schemas"]):
        if "default" in node and not where.endswith("/properties"):
            assert validator_of(node, absolute).is_valid(node["default"]), where


def test_every_array_says_what_it_holds(document: Node) -> None:
    for where, node in objects(document):
        assert not isinstance(node.get("type"), list), where  # some generators know one type only
        if node.get("type") == "array":
            assert "items" in node, where
            assert "prefixItems" not in node, where


def test_a_form_is_the_first_of_several_media_types(document: Node) -> None:
    """Many generators know only the first, and only a form can hold several images."""
    forms = 0
    for where, operation in operations(document):
        types = list(operation.get("requestBody", {}).get("content", {}))
        if "multipart/form-data" in types:
            forms += 1
            assert types[0] == "multipart/form-data", where
    assert forms >= 10


def test_operations_on_one_image_take_one(document: Node) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {})
            form = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
            if "image" in form and "image/png" in content:
                several = form["image"]["type"] == "array"
                assert several == (path not in SINGLE_IMAGE), path
    verify = document["paths"]["/v1/faces/verify"]["post"]["requestBody"]["content"]
    assert verify["multipart/form-data"]["schema"]["properties"]["image"]["maxItems"] == 2


def test_scopes_are_alternatives(document: Node) -> None:
    """A list of roles within one requirement would mean that a key needs all of them."""
    for where, operation in operations(document):
        requirements = [name for name in operation["security"] if name]
        for requirement in requirements:
            (scopes,) = requirement.values()
            assert len(scopes) <= 1, where
        if requirements:
            assert "Needs a key with" in operation["description"], where
    follow = document["paths"]["/v1/jobs/{job_id}/events"]["get"]["security"]
    assert follow[:3] == [{"bearer": ["infer"]}, {"header": ["infer"]}, {"bearer": ["train"]}]


def test_tags_and_servers_are_described(document: Node) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert {name for _, operation in operations(document) for name in operation["tags"]} == (
        described
    )
    assert [server["url"] for server in document["servers"]] == ["/"]
    assert document["info"]["license"]["identifier"] == "Apache-2.0"


def test_names_read_well_in_generated_clients(document: Node) -> None:
    for where, operation in operations(document):
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", operation["operationId"]), where
    for name, schema in document["components"]["schemas"].items():
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", name), name
        assert schema["title"] == name
        # In Python, a generated class and its field would hide each other.
        snake_case = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
        assert snake_case not in schema.get("properties", {}), name


def test_bodies_of_requests_have_no_defaults(document: Node) -> None:
    """Some generated clients send all defaults: one would delete frames or override a preset.

    In those of openapi-typescript, a field with a default has to be sent.
    """
    schemas = document["components"]["schemas"]
    names = set()
    parts = [operation.get("requestBody", {}) for _, operation in operations(document)]
    while parts:
        for where, node in objects(parts.pop()):
            name = str(node.get("$ref", "")).removeprefix("#/components/schemas/")
            if name in schemas.keys() - names:
                names.add(name)
                parts.append(schemas[name])
            if "/properties/" in where or where.startswith("#/properties"):
                assert "default" not in node or where.endswith("/properties"), (names, where)
    assert names >= {"SubjectChange", "NewTraining", "Epochs", "FiltersRequest", "NewSubject"}
    assert "Default: 32." in schemas["NewTraining"]["properties"]["batch_size"]["description"]


def test_a_generated_client_asks_for_a_heatmap_as_json(document: Node) -> None:
    for path in ("/v1/heatmap", "/v1/activations"):
        parameters = document["paths"][path]["post"]["parameters"]
        named = {one["name"]: one for one in parameters if "name" in one}
        assert named["Accept"]["schema"]["default"] == "application/json"


def test_equal_names_are_refused() -> None:
    document = {"components": {"schemas": {"Erased": {}, "Erasure": {}}}}
    with pytest.raises(ValueError, match="same name"):
        rename_schemas(document)


def test_a_tuple_of_different_types_becomes_an_array_of_anything() -> None:
    node: Node = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}
    complete_arrays(node)
    assert node == {"type": "array", "items": {}}
