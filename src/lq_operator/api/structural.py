"""From a pydantic model to the structural OpenAPI schema that a CRD carries.

It owns the translation (references inlined, Optional means absent, numeric bounds, CEL rules, defaults) and refuses,
with the field's path, whatever the API server would refuse or could not bound. No IO.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from lq_operator.api.base import ApiModel, Resource

Schema = dict[str, Any]

RULES = "x-kubernetes-validations"
_LIST_TYPE = "x-kubernetes-list-type"
_LIST_KEYS = "x-kubernetes-list-map-keys"
_MAP_TYPE = "x-kubernetes-map-type"
_ORDER = (
    "description", "type", "format", "default", "enum", "pattern", "minLength", "maxLength", "minimum", "exclusiveMinimum",
    "maximum", "exclusiveMaximum", "minItems", "maxItems", _LIST_TYPE, _LIST_KEYS, "items", "maxProperties",
    "additionalProperties", _MAP_TYPE, "required", "properties", RULES,
)  # fmt: skip
_DROPPED = ("title", "discriminator", "$defs")
_UNKNOWN_TO_CRDS = ("prefixItems", "uniqueItems", "oneOf", "allOf", "patternProperties", "propertyNames", "$ref")


class CrdGenerationError(ValueError):
    """A model says something that a CRD cannot carry; the message names the field and the remedy."""


class _ModelSchema(GenerateJsonSchema):
    """pydantic's schema plus what only the class knows: its CEL rules, and defaults as a manifest would write them."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        result = super().model_schema(schema)
        cls = schema["cls"]
        if issubclass(cls, ApiModel) and cls.atomic:
            result[_MAP_TYPE] = "atomic"
        if issubclass(cls, ApiModel) and cls.cel:
            result[RULES] = [{"rule": rule, "message": message} for rule, message in cls.cel]
        return result

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, BaseModel):
            return dft.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return super().encode_default(dft)


def resource_schema(kind: type[Resource]) -> Schema:
    """openAPIV3Schema of a kind. Raises CrdGenerationError."""
    raw = kind.model_json_schema(by_alias=True, schema_generator=_ModelSchema)
    root = _translate(raw, raw.get("$defs", {}), kind.kind_name, ())
    properties = root["properties"]
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    if kind.name_rule is not None:
        rule, message = kind.name_rule
        root.setdefault(RULES, []).append({"rule": rule, "message": message})
    shown = {column.path for column in kind.columns}
    _settle_defaults({"properties": {name: properties[name] for name in ("spec", "status")}}, "", shown)
    _settle_status_defaults(properties["status"])
    for path, node in walk(root):
        if path.split(".")[0] in ("spec", "status"):
            _refuse_unbounded(f"{kind.kind_name}.{path}", node)
        if path.startswith("spec"):
            _refuse_yaml_words(f"{kind.kind_name}.{path}", node)
        _refuse_unguarded_rules(f"{kind.kind_name}.{path}", node)
    return _ordered(root)


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node of a structural schema with its path: spec.disks[].name, spec.labels{}; the root has path ''."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def _translate(node: Schema, defs: dict[str, Schema], path: str, stack: tuple[str, ...]) -> Schema:
    """One node without $ref, null unions and JSON Schema 2020 spellings."""
    node, stack = _inline(node, defs, path, stack)
    result = {key: value for key, value in node.items() if key not in _DROPPED}
    if "description" in result:
        result["description"] = " ".join(str(result["description"]).split())
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if result.get("default", ...) is None:
        del result["default"]
    _rewrite_bounds(result, path)
    if result.get("additionalProperties") is True:
        raise CrdGenerationError(f"{path}: open objects are not structural; give the values a type")
    for word in _UNKNOWN_TO_CRDS:
        if word in result:
            raise CrdGenerationError(f"{path}: {word} has no place in a CRD; split the field")
    if result.get("additionalProperties") is False:
        del result["additionalProperties"]  # the API server prunes or refuses unknown fields by itself
    if "properties" in result:
        result["properties"] = {
            name: _translate(child, defs, f"{path}.{name}", stack) for name, child in result["properties"].items()
        }
    for word in ("items", "additionalProperties"):
        if word in result:
            result[word] = _translate(result[word], defs, f"{path}[]", stack)
    if "type" not in result:
        raise CrdGenerationError(f"{path}: no single type; CRDs allow one type a field")
    return result


def _inline(node: Schema, defs: dict[str, Schema], path: str, stack: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    """Replace `anyOf [T, null]` by T and `$ref` by its target; what the field itself says wins over the target."""
    while "anyOf" in node or "$ref" in node:
        own = {key: value for key, value in node.items() if key not in ("anyOf", "$ref")}
        if "anyOf" in node:
            branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
            if len(branches) != 1:
                raise CrdGenerationError(f"{path}: a union of {len(branches)} types; split it into several fields")
            node = {**branches[0], **own}
        else:
            name = str(node["$ref"]).rsplit("/", 1)[-1]
            if name in stack:
                raise CrdGenerationError(f"{path}: {name} contains itself; CRDs cannot recurse")
            stack = (*stack, name)
            node = {**defs[name], **own}
    return node, stack


def _rewrite_bounds(node: Schema, path: str) -> None:
    """Draft 2020's numeric exclusive bounds become inclusive ones for integers (CRDs know the boolean form only)."""
    for exclusive, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if exclusive not in node:
            continue
        bound = node.pop(exclusive)
        if node.get("type") == "integer":
            node[inclusive] = int(bound) + step
        else:
            node[inclusive], node[exclusive] = bound, True
    if node.get("type") == "number":
        raise CrdGenerationError(f"{path}: floats do not round-trip; use an integer with its unit in the name")


def _settle_defaults(node: Schema, path: str, shown: set[str], keys: tuple[str, ...] = ()) -> None:
    """Keep the defaults that say something, that a rule or a column reads, or that identify a list item (`keys`).

    `false`, '' and empty lists are what absence means anyway: writing them into every stored object is noise. In
    status no default is kept: nothing may look observed before somebody observed it.
    """
    in_status = path.startswith(".status")
    rules = " ".join(rule["rule"] for rule in node.get(RULES, []))
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}"
        _settle_defaults(child, here, shown)
        if "default" not in child or name in keys:
            continue
        value = child["default"]
        read = f"self.{name}" in rules and f"has(self.{name})" not in rules
        nested = any("default" in grandchild for grandchild in child.get("properties", {}).values())
        says_something = nested if value == {} else not (value in ("", []) or value is False)
        if in_status or not (says_something or read or here in shown):
            del child["default"]
        elif isinstance(value, dict):
            child["default"] = _filled(value, child)
    if "items" in node:
        _settle_defaults(node["items"], f"{path}[]", shown, tuple(node.get(_LIST_KEYS, ())))
    if isinstance(node.get("additionalProperties"), dict):
        _settle_defaults(node["additionalProperties"], f"{path}{{}}", shown)


def _filled(value: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """An object's default with the defaults inside it: the API server judges a default by the rules as it stands."""
    inner = {name: child["default"] for name, child in schema.get("properties", {}).items() if "default" in child}
    return {**inner, **value}


def _settle_status_defaults(status: Schema) -> None:
    """Generation -1 was never observed: kstatus, Argo CD and `kubectl wait` see an object as pending until we speak."""
    status["properties"]["observedGeneration"]["default"] = -1
    status["default"] = {"observedGeneration": -1}


def _refuse_unbounded(path: str, node: Schema) -> None:
    """Everything has a limit: without one the API server refuses rules for their estimated cost."""
    kind = node["type"]
    if kind == "string" and "enum" not in node and "maxLength" not in node:
        raise CrdGenerationError(f"{path}: a string without max_length")
    if kind == "array" and "maxItems" not in node:
        raise CrdGenerationError(f"{path}: a list without max_length")
    if "additionalProperties" in node and "maxProperties" not in node:
        raise CrdGenerationError(f"{path}: a map without max_length")
    if kind == "object" and "additionalProperties" not in node and "properties" not in node:
        raise CrdGenerationError(f"{path}: an object without fields")
    properties = node.get("items", {}).get("properties", {})
    for key in node.get(_LIST_KEYS, ()):
        if key not in properties:
            raise CrdGenerationError(f"{path}: list-map key {key} is no field of the items")
        if key not in node["items"].get("required", ()) and "default" not in properties[key]:
            raise CrdGenerationError(f"{path}: list-map key {key} must be required or have a default")


_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"})


def _refuse_yaml_words(path: str, node: Schema) -> None:
    """kubectl reads YAML 1.1, where an unquoted Off is false: whoever writes it gets 'expected string'."""
    for value in node.get("enum", ()):
        if str(value).lower() in _YAML_WORDS:
            raise CrdGenerationError(f"{path}: {value!r} is a boolean or null in YAML; choose another word")


_CHAIN = re.compile(r"\b(self|oldSelf)((?:\.[A-Za-z]\w*)+)(\()?")


def _refuse_unguarded_rules(path: str, node: Schema) -> None:
    """A rule that reads an absent optional field fails with 'no such key' instead of its message."""
    for rule in node.get(RULES, []):
        text = rule["rule"]
        for who, chain, called in _CHAIN.findall(text):
            names = chain[1:].split(".")[: -1 if called else None]
            here, prefix = node, who
            for name in names:
                prefix = f"{prefix}.{name}"
                if prefix.startswith("self.metadata"):
                    break
                if name not in here.get("properties", {}):
                    raise CrdGenerationError(f"{path}: rule {text!r} reads {prefix}, which does not exist")
                child = here["properties"][name]
                if name not in here.get("required", ()) and "default" not in child and f"has({prefix})" not in text:
                    raise CrdGenerationError(f"{path}: rule {text!r} reads the optional {prefix} without has()")
                here = child


def _ordered(node: Schema) -> Schema:
    """The same schema with its words in one fixed order; fields keep the order of the model."""
    unknown = set(node) - set(_ORDER)
    if unknown:
        raise CrdGenerationError(f"words a CRD does not know: {', '.join(sorted(unknown))}")
    result = {word: node[word] for word in _ORDER if word in node}
    if "properties" in result:
        result["properties"] = {name: _ordered(child) for name, child in result["properties"].items()}
    for word in ("items", "additionalProperties"):
        if word in result:
            result[word] = _ordered(result[word])
    return result
