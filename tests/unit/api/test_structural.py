"""The translation from models to structural schemas, and what it refuses."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from lq_operator.api.base import ApiModel, PrinterColumn, Resource, Status, list_map
from lq_operator.api.structural import CrdGenerationError, resource_schema, walk

Short = Annotated[str, Field(max_length=10)]


class Inner(ApiModel):
    """Inner text."""

    word: Short = "w"
    zero: bool = False


class Item(ApiModel):
    """One item."""

    name: Short
    part: Short = ""


def schema_of(cel: tuple[tuple[str, str], ...] = (), columns: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """spec's schema of a kind whose spec has these fields: name=(annotation, default) or name=annotation."""
    annotations = {name: field[0] if isinstance(field, tuple) else field for name, field in fields.items()}
    defaults = {name: field[1] for name, field in fields.items() if isinstance(field, tuple)}
    namespace = {
        "__annotations__": {**annotations, "cel": ClassVar[Any]},
        "cel": cel,
        "__module__": __name__,
        **defaults,
    }
    spec: Any = type("ThingSpec", (ApiModel,), namespace)

    class Thing(Resource):
        """A thing."""

        kind_name = "Thing"
        plural = "things"
        spec: Any
        status: Status = Status()

    Thing.columns = tuple(PrinterColumn(name="C", path=path) for path in columns)
    Thing.__annotations__["spec"] = spec
    Thing.model_fields["spec"].annotation = spec
    Thing.model_rebuild(force=True)
    return resource_schema(Thing)["properties"]["spec"]  # type: ignore[no-any-return]


def test_optional_is_absent_not_null() -> None:
    schema = schema_of(a=(Short | None, None), b=Short)
    assert schema["properties"]["a"] == {"type": "string", "maxLength": 10}
    assert schema["required"] == ["b"]


def test_references_are_inlined_and_the_field_speaks_first() -> None:
    schema = schema_of(a=Inner, b=Annotated[Inner, Field(description="Of b.")])
    assert schema["properties"]["a"]["description"] == "Inner text."
    assert schema["properties"]["b"]["description"] == "Of b."
    assert schema["properties"]["b"]["properties"]["word"]["maxLength"] == 10


def test_words_and_bounds() -> None:
    schema = schema_of(
        one=Literal["a"], two=Literal["a", "b"], number=Annotated[int, Field(gt=1, lt=9)], named=(Short, "x")
    )["properties"]
    assert schema["one"]["enum"] == ["a"]
    assert schema["two"] == {"type": "string", "enum": ["a", "b"]}
    assert schema["number"] == {"type": "integer", "minimum": 2, "maximum": 8}
    assert schema["named"]["default"] == "x"


def test_defaults_that_say_nothing_are_left_out() -> None:
    schema = schema_of(a=(Short, ""), b=(bool, False), c=(bool, True), d=(Inner, Inner()))["properties"]
    assert "default" not in schema["a"]
    assert "default" not in schema["b"]
    assert schema["c"]["default"] is True
    assert schema["d"]["default"] == {"word": "w"}
    assert "default" not in schema["d"]["properties"]["zero"]


def test_defaults_that_a_rule_or_a_column_reads_stay() -> None:
    schema = schema_of((("self.a == 'x'", "m"),), (".spec.b",), a=(Short, ""), b=(bool, False))["properties"]
    assert schema["a"]["default"] == ""
    assert schema["b"]["default"] is False


def test_maps_and_named_lists() -> None:
    items = Annotated[list[Item], Field(max_length=3, json_schema_extra=list_map("name", "part"))]
    labels = Annotated[dict[str, Short], Field(max_length=4)]
    schema = schema_of(a=(items, []), b=(labels, {}))["properties"]
    assert schema["a"]["x-kubernetes-list-map-keys"] == ["name", "part"]
    assert schema["a"]["items"]["properties"]["part"]["default"] == ""
    assert schema["b"] == {
        "type": "object",
        "maxProperties": 4,
        "additionalProperties": {"type": "string", "maxLength": 10},
    }


def test_rules_are_carried() -> None:
    schema = schema_of((("self.a != oldSelf.a", "m"),), a=Short)
    assert schema["x-kubernetes-validations"] == [{"rule": "self.a != oldSelf.a", "message": "m"}]


class Loop(ApiModel):
    """Contains itself."""

    again: "Loop | None" = None


NAMELESS = Annotated[list[Item], Field(max_length=3, json_schema_extra=list_map("nothing"))]


class OptionalKey(ApiModel):
    """A key that may be absent."""

    name: Short | None = None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": str}, "Thing.spec.a: a string without max_length"),
        ({"a": list[Short]}, "Thing.spec.a: a list without max_length"),
        ({"a": dict[str, Short]}, "Thing.spec.a: a map without max_length"),
        ({"a": Annotated[list[str], Field(max_length=2)]}, r"Thing.spec.a\[\]: a string without max_length"),
        ({"a": Annotated[dict[str, Any], Field(max_length=2)]}, "Thing.spec.a"),
        ({"a": Any}, "Thing.spec.a: no single type"),
        ({"a": float}, "Thing.spec.a: floats do not round-trip"),
        ({"a": int | Short}, "Thing.spec.a: a union of 2 types"),
        ({"a": tuple[int, int]}, "Thing.spec.a: prefixItems has no place in a CRD"),
        ({"a": Annotated[set[Short], Field(max_length=2)]}, "Thing.spec.a: uniqueItems has no place in a CRD"),
        ({"a": Loop}, "Loop contains itself"),
        ({"a": (NAMELESS, [])}, "Thing.spec.a: list-map key nothing is no field"),
        (
            {"a": Annotated[list[OptionalKey], Field(max_length=2, json_schema_extra=list_map("name"))]},
            "Thing.spec.a: list-map key name must be required or have a default",
        ),
        ({"a": Literal["On", "Off"]}, "'On' is a boolean or null in YAML"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_a_crd_cannot_carry_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CrdGenerationError, match=message):
        schema_of(**fields)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("self.a == 'x'", "reads the optional self.a without has()"),
        ("has(self.a) && self.a == oldSelf.a", "reads the optional oldSelf.a without has()"),
        ("has(self.b) && self.b.word == 'w' && self.nothing", "reads self.nothing, which does not exist"),
    ],
)
def test_rules_that_would_fail_on_absent_fields_are_refused(rule: str, message: str) -> None:
    with pytest.raises(CrdGenerationError) as refusal:
        schema_of(((rule, "m"),), a=(Short | None, None), b=(Inner | None, None))
    assert message in str(refusal.value)


def test_guarded_rules_pass() -> None:
    rule = "!has(self.a) || (has(oldSelf.a) && self.a == oldSelf.a && self.a.size() > 1)"
    assert schema_of(((rule, "m"),), a=(Short | None, None))["x-kubernetes-validations"]


def test_walk_names_paths() -> None:
    schema = schema_of(
        a=(Annotated[list[Item], Field(max_length=2)], []), b=(Annotated[dict[str, Short], Field(max_length=2)], {})
    )
    assert [path for path, _ in walk(schema, "spec")] == [
        "spec",
        "spec.a",
        "spec.a[]",
        "spec.a[].name",
        "spec.a[].part",
        "spec.b",
        "spec.b{}",
    ]
