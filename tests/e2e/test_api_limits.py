"""Each documented limit is refused by a real API server, with a message that names the field; and by our models.

The table is `limits.py`. The first tests compare it with the models and need no API server.
"""

import contextlib
import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from tests.e2e.apiserver import NAMESPACE, Answer, ApiServer
from tests.e2e.limits import (
    ALLOWED_RULES,
    CONTROL,
    DUPLICATES,
    FIELDS,
    FREE_OF_XML,
    RULES,
    SELECTOR_RULES,
    SPECS,
    Int,
    Items,
    Keys,
    Limit,
    Manifest,
    Needs,
    Rule,
    Text,
    Words,
    base,
    edit,
    put,
)  # fmt: skip

from lq_operator.api.base import Resource, Scope
from lq_operator.api.kinds import KINDS
from lq_operator.api.structural import RULES as SCHEMA_RULES
from lq_operator.api.structural import Schema, resource_schema, walk

BY_KIND: dict[str, type[Resource]] = {kind.kind_name: kind for kind in KINDS}
SCHEMAS: dict[str, Schema] = {kind.kind_name: resource_schema(kind) for kind in KINDS}
CASES = [(kind, path) for kind, limits in FIELDS.items() for path in limits]
IDS = [f"{kind}:{path}" for kind, path in CASES]

# ---------------------------------------------------------------- the table says what the models say

_WORDS = ("enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "maxItems", "minItems", "maxProperties")


def _said_by_model(node: Schema) -> dict[str, Any]:
    said = {word: node[word] for word in _WORDS if word in node}
    if "pattern" in said:
        said["pattern"] = True
    if node.get("required"):
        said["required"] = sorted(node["required"])
    return said


def _said_by_table(limit: Limit) -> dict[str, Any]:
    match limit:
        case Int(low, high):
            return {"minimum": low, "maximum": high}
        case Text(low, high, _, bad, _):
            return {"maxLength": high, **({"minLength": low} if low else {}), **({"pattern": True} if bad else {})}
        case Words(words):
            return {"enum": list(words)}
        case Items(high, _):
            return {"maxItems": high}
        case Keys(high):
            return {"maxProperties": high}
        case Needs(names):
            return {"required": sorted(names)}


@pytest.mark.parametrize("kind", FIELDS)
def test_the_table_is_complete(kind: str) -> None:
    """A limit in a model that is not in the table is neither documented nor tested; one in the table alone is a lie."""
    model = {
        path: said for path, node in walk(SCHEMAS[kind]) if path.startswith("spec") and (said := _said_by_model(node))
    }
    table = {path: _said_by_table(limit) for path, limit in FIELDS[kind].items()}
    assert table == model


def test_every_kind_is_in_the_table() -> None:
    assert set(FIELDS) == set(SPECS) == set(BY_KIND)


def _rule_rows(kind: str) -> set[str]:
    return {rule.message for rule in RULES if rule.kind == kind}


@pytest.mark.parametrize("kind", FIELDS)
def test_every_rule_has_a_row(kind: str) -> None:
    shared = {*SELECTOR_RULES, *ALLOWED_RULES}
    messages = {rule["message"] for _, node in walk(SCHEMAS[kind]) for rule in node.get(SCHEMA_RULES, ())} - shared
    rows = _rule_rows(kind)
    assert [message for message in sorted(messages) if not any(message.startswith(row) for row in rows)] == []
    assert [row for row in sorted(rows) if not any(message.startswith(row) for message in messages)] == []


@pytest.mark.parametrize("kind", FIELDS)
def test_every_spec_field_has_a_description(kind: str) -> None:
    """`kubectl explain` has something to say about every field that users write."""
    silent = [
        path
        for path, node in walk(SCHEMAS[kind])
        if path.startswith("spec.") and not path.endswith(("[]", "{}")) and not node.get("description")
    ]
    assert silent == []


# ---------------------------------------------------------------- values that break a limit


def _breaking(limit: Limit) -> Iterator[Any]:
    match limit:
        case Int(low, high):
            yield from (low - 1, high + 1, -(2**40), 2**53, str(low), low + 0.5, True)
        case Text(low, high, _, bad, fill):
            yield (fill or "a") * (high + 1)
            yield (fill or "a") * 100_000
            if low:
                yield (fill or "a") * (low - 1)
            yield from bad
            yield from (7, True, ["a"], {})
        case Words(words):
            yield from ({"nonsense", *(word.lower() for word in words), *(word.upper() for word in words)} - set(words))
            yield from (f"{words[0]}\n", 1, True)
        case Items(high, make):
            yield [make(index) for index in range(high + 1)]
            yield "a"
        case Keys(high):
            yield {f"k{index}": "v" for index in range(high + 1)}
            yield [1]
        case Needs():
            yield from ([], "a")


def _keeping(limit: Limit) -> Iterator[Any]:
    match limit:
        case Int(low, high):
            yield from (low, high)
        case Text(low, high, good, _, fill):
            yield from good
            if fill is not None:
                yield from (fill * max(low, 0), fill * high)
        case Words(words):
            yield from words
        case Items(high, make):
            yield [make(index) for index in range(high)]
        case Keys(high):
            yield {f"k{index}": "v" for index in range(high)}
        case Needs():
            return


def _broken(kind: str, path: str) -> Iterator[tuple[Manifest, str]]:
    """Manifests that break this limit, with the field that the refusal must name."""
    limit = FIELDS[kind][path]
    for value in _breaking(limit):
        manifest = base(kind)
        yield manifest, put(manifest, path, value)
    if isinstance(limit, Needs):
        for name in limit.names:
            manifest = base(kind)
            parent: Any = manifest
            concrete = put(manifest, f"{path}.{name}", "a")
            for step in concrete.replace("[0]", ".0").split(".")[:-1]:
                parent = parent[int(step)] if step.isdigit() else parent[step]
            del parent[name]
            yield manifest, concrete


def _names(answer: Answer, field: str) -> bool:
    """Whether the refusal points to this field (or into it), by its cause and in the sentence that kubectl prints."""
    hit = [cause for cause, _ in answer.causes if cause == field or cause.startswith((f"{field}.", f"{field}["))]
    return bool(hit) and any(cause in answer.message for cause in hit)


@pytest.mark.lab
@pytest.mark.parametrize(("kind", "path"), CASES, ids=IDS)
def test_broken_limit_is_refused_by_name(api_server: ApiServer, kind: str, path: str) -> None:
    tried = 0
    for manifest, field in _broken(kind, path):
        answer = api_server.create(manifest)
        assert answer.status == 422, (answer.status, answer.message, manifest["spec"])
        assert _names(answer, field), (field, answer.message[:400])
        tried += 1
    assert tried


@pytest.mark.lab
@pytest.mark.parametrize(("kind", "path"), CASES, ids=IDS)
def test_kept_limit_is_not_refused(api_server: ApiServer, kind: str, path: str) -> None:
    """The limit itself is allowed: a refusal may come from a rule between fields, never from this field."""
    for value in _keeping(FIELDS[kind][path]):
        manifest = base(kind)
        field = put(manifest, path, value)
        answer = api_server.create(manifest)
        assert answer.accepted or not [c for c in answer.causes if c[0] == field], (
            str(value)[:80],
            answer.message[:400],
        )


@pytest.mark.parametrize(("kind", "path"), CASES, ids=IDS)
def test_models_refuse_it_too(kind: str, path: str) -> None:
    """pydantic (Rust's regex) and the API server (Go's RE2) read the same patterns alike. Types are left to the API
    server: the models coerce some of them, and only ever read what it stored."""
    limit = FIELDS[kind][path]
    for manifest, field in _broken(kind, path):
        value: Any = manifest
        with contextlib.suppress(KeyError):
            for step in field.replace("[", ".").replace("]", "").split("."):
                value = value[int(step)] if step.isdigit() else value[step]
        if isinstance(limit, Int | Words) and not isinstance(value, str if isinstance(limit, Words) else int):
            continue
        if isinstance(limit, Int) and isinstance(value, bool):
            continue
        with pytest.raises(ValidationError):
            BY_KIND[kind].model_validate(manifest)


# ---------------------------------------------------------------- rules


@pytest.fixture
def stored(api_server: ApiServer) -> Iterator[Any]:
    """Creates a manifest for real and deletes it afterwards."""
    made: list[Manifest] = []

    def store(manifest: Manifest) -> Manifest:
        answer = api_server.create(manifest, dry_run=False)
        assert answer.accepted, answer.message
        made.append(manifest)
        return answer.body

    yield store
    for manifest in made:
        api_server.delete(manifest)


_COUNTER = itertools.count()


@pytest.mark.lab
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}:{rule.message[:50]}")
def test_rule_refuses(api_server: ApiServer, stored: Any, rule: Rule) -> None:
    good = edit(base(rule.kind), rule.before)
    if rule.stored:
        if rule.kind != "AddressClaim":
            good["metadata"]["name"] = f"limits-{next(_COUNTER)}"
        good = stored(good)
        send = api_server.replace
        answer = send(edit(good, rule.change))
    else:
        send = api_server.create
        assert send(good).accepted, send(good).message
        answer = send(edit(good, rule.change))
    assert answer.status == 422, (answer.status, answer.message)
    assert any(message.startswith(rule.message) or rule.message in message for _, message in answer.causes), (
        answer.message
    )
    for change in rule.allowed:
        fine = send(edit(good, change))
        assert fine.accepted, (change, fine.message)


def _selectors() -> list[tuple[str, str]]:
    return [(kind, path.removesuffix(".matchLabels")) for kind, path in CASES if path.endswith(".matchLabels")]


def _label_maps() -> list[tuple[str, str]]:
    return [(kind, path) for kind, path in CASES if isinstance(FIELDS[kind][path], Keys)]


def _open_selector(manifest: Manifest, path: str) -> None:
    """allowedNamespaces takes a selector only with from: Selector."""
    before, found, _ = path.partition("allowedNamespaces.selector")
    if found:
        put(manifest, f"{before}allowedNamespaces.from", "Selector")


@pytest.mark.lab
@pytest.mark.parametrize(("kind", "path"), _label_maps(), ids=lambda value: str(value))
def test_label_keys_are_label_keys(api_server: ApiServer, kind: str, path: str) -> None:
    for key in ("", "a" * 318, "-a", "a b", "a/b/c", "a\x00", "<a>", "é", "../a"):
        manifest = base(kind)
        _open_selector(manifest, path)
        field = put(manifest, path, {key: "v"})
        answer = api_server.create(manifest)
        assert answer.status == 422, (key, answer.message)
        assert (field, SELECTOR_RULES[0]) in [
            (cause, message.split(": ", 2)[-1]) for cause, message in answer.causes
        ], answer.message
    manifest = base(kind)
    _open_selector(manifest, path)
    put(manifest, path, {"example.com/rack": "v", "a" * 317: "v"})
    assert api_server.create(manifest).accepted


@pytest.mark.lab
@pytest.mark.parametrize(("kind", "path"), _selectors(), ids=lambda value: str(value))
def test_selector_terms_have_their_values(api_server: ApiServer, kind: str, path: str) -> None:
    for term, fine in (
        ({"operator": "In"}, False),
        ({"operator": "NotIn", "values": []}, False),
        ({"operator": "Exists", "values": ["a"]}, False),
        ({"operator": "DoesNotExist", "values": ["a"]}, False),
        ({"operator": "In", "values": ["a"]}, True),
        ({"operator": "Exists"}, True),
    ):
        manifest = base(kind)
        _open_selector(manifest, path)
        put(manifest, f"{path}.matchExpressions[]", {"key": "k", **term})
        answer = api_server.create(manifest)
        assert answer.accepted == fine, (term, answer.message)
        assert fine or SELECTOR_RULES[1] in answer.message, answer.message


@pytest.mark.lab
@pytest.mark.parametrize(
    ("kind", "path"),
    [case for case in CASES if case[1].endswith("allowedNamespaces.from")],
    ids=lambda value: str(value),
)
def test_allowed_namespaces_rules(api_server: ApiServer, kind: str, path: str) -> None:
    for choice, has_selector, message in (
        ("Selector", False, ALLOWED_RULES[0]),
        ("All", True, ALLOWED_RULES[1]),
        ("Same", True, ALLOWED_RULES[1]),
        ("Selector", True, ""),
    ):
        manifest = base(kind)
        put(manifest, path, choice)
        if has_selector:
            put(manifest, path.replace(".from", ".selector"), {"matchLabels": {"a": "b"}})
        answer = api_server.create(manifest)
        assert answer.accepted == (message == ""), answer.message
        assert message in answer.message or not message, answer.message


# ---------------------------------------------------------------- names, duplicates, unknown fields, hostile text


@pytest.mark.lab
@pytest.mark.parametrize("kind", FIELDS)
def test_object_names(api_server: ApiServer, kind: str) -> None:
    for name in ("", "A", "a_b", "-a", "a/b", "a b", "é", "a" * 254, "a\x00", "..", "<a>"):
        manifest = edit(base(kind), {"metadata.name": name})
        answer = api_server.create(manifest)
        assert answer.status in (400, 422), (name, answer.status)
        assert "name" in answer.message, answer.message


@pytest.mark.lab
@pytest.mark.parametrize(("kind", "path", "items"), DUPLICATES, ids=lambda value: str(value)[:30])
def test_the_same_name_twice(api_server: ApiServer, kind: str, path: str, items: list[Any]) -> None:
    answer = api_server.create(edit(base(kind), {path: items}))
    assert answer.status == 422
    assert any(field.startswith(path) and "uplicate" in message for field, message in answer.causes), answer.message


@pytest.mark.lab
@pytest.mark.parametrize("kind", FIELDS)
def test_unknown_fields_are_named(api_server: ApiServer, kind: str) -> None:
    answer = api_server.create(edit(base(kind), {"spec.nonsense": 1}))
    assert answer.status == 400
    assert 'unknown field "spec.nonsense"' in answer.message


def _texts() -> list[tuple[str, str]]:
    return [(kind, path) for kind, path in CASES if isinstance(FIELDS[kind][path], Text)]


def test_text_without_a_pattern_has_a_reason() -> None:
    unchecked = {(kind, path) for kind, path in _texts() if not FIELDS[kind][path].bad}  # type: ignore[union-attr]
    assert unchecked == set(FREE_OF_XML)


HOSTILE = ("\x00", "a\x00", *CONTROL, "\x1b]0;owned\x07", "a" * 1_048_576)


@pytest.mark.lab
@pytest.mark.parametrize(("kind", "path"), _texts(), ids=lambda value: str(value))
def test_no_text_carries_what_xml_cannot(api_server: ApiServer, kind: str, path: str) -> None:
    """Padded, so that it is the character that is refused and not the length."""
    for hostile in HOSTILE:
        if (kind, path) in FREE_OF_XML and len(hostile) < 100:
            continue
        manifest = base(kind)
        field = put(manifest, path, f"{hostile} and more than enough text")
        answer = api_server.create(manifest)
        assert answer.status == 422, (hostile[:20], answer.message[:200])
        assert _names(answer, field), answer.message[:400]


@pytest.mark.lab
@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("VirtualMachine", "spec.description", "]]><!-- \"'&amp;</domain>{{ }} %s $(id) `id` ;--"),
        ("VirtualMachine", "spec.description", "\u202etxt.exe é 日本 🚀 \u2028 ﷽"),
        ("VirtualMachineClass", "spec.description", "<script>alert(1)</script>"),
        ("Image", "spec.os", "Debian & <friends>"),
        ("HostAttestation", "spec.seen", "LEDs: off; fans: \"off\"; <nothing> & 'silence'"),
        ("VirtualMachine", "spec.cloudInit.userData", "#!/bin/sh\nprintf '\x1b[0m' # \ttabs & <xml>\n"),
        ("VirtualMachine", "spec.cloudInit.userData", "é" * 32768),
    ],
)
def test_odd_text_is_kept_as_it_is(api_server: ApiServer, kind: str, path: str, value: str) -> None:
    manifest = base(kind)
    put(manifest, path, value)
    answer = api_server.create(manifest)
    assert answer.accepted, answer.message
    read: Any = answer.body
    for name in path.split("."):
        read = read[name]
    assert read == value
    BY_KIND[kind].model_validate(answer.body)


def _full_selector() -> dict[str, Any]:
    values = [f"{value:02}{'v' * 61}" for value in range(16)]
    return {
        "matchLabels": {f"{index:02}{'k' * 315}": "v" * 63 for index in range(16)},
        "matchExpressions": [{"key": "k" * 317, "operator": "In", "values": values}] * 8,
    }


@pytest.mark.lab
def test_a_cluster_at_all_limits_at_once_is_stored(api_server: ApiServer, stored: Any) -> None:
    manifest = base("HypervisorCluster")
    opened = {"from": "Selector", "selector": _full_selector()}
    networks = [
        {"name": f"{index:02}{'n' * 61}", "bridge": "b" * 15, "allowedNamespaces": opened} for index in range(64)
    ]
    manifest["spec"] = {"allowedNamespaces": opened, "physicalNetworks": networks}
    body = stored(manifest)
    body["spec"]["recovery"] = "again"
    assert api_server.replace(body).accepted


@pytest.mark.lab
def test_a_vm_at_all_limits_at_once_is_stored(api_server: ApiServer, stored: Any) -> None:
    """32 disks, 16 interfaces, 64 long keys, 32 KiB of user-data, full selectors: within the API server's cost budget."""
    manifest = base("VirtualMachine")
    manifest["metadata"]["name"] = "a" * 63
    for path in ("spec.disks", "spec.interfaces", "spec.placement.nodeSelector", "spec.placement.tolerations"):
        put(manifest, path, next(_keeping(FIELDS["VirtualMachine"][path])))
    for index, disk in enumerate(manifest["spec"]["disks"]):
        disk.update(bootOrder=index + 1, volumeRef={"name": f"{index:03}" + "v" * 250})
    for index, nic in enumerate(manifest["spec"]["interfaces"]):
        nic.update(
            bootOrder=index + 33,
            mac=f"52:54:00:00:00:{index:02x}",
            networkRef={"name": "n" * 253, "namespace": "s" * 63},
        )
    selector = _full_selector()
    key = "ssh-ed25519 " + "A" * 4084
    manifest["spec"]["cloudInit"] = {
        "userData": "u" * 32768,
        "networkData": "n" * 32768,
        "sshAuthorizedKeys": [key] * 64,
    }
    manifest["spec"]["placement"].update(
        nodeAffinity=selector,
        affinity=[{"selector": selector}] * 8,
        antiAffinity=[{"selector": selector}] * 8,
        spread=[{"selector": selector}] * 4,
    )
    body = stored(manifest)
    changed = copy.deepcopy(body)
    changed["spec"]["description"] = "again"
    assert api_server.replace(changed).accepted


# ---------------------------------------------------------------- status


def _plain(node: Schema) -> Any:
    """The smallest value that the schema accepts."""
    match node["type"]:
        case "string":
            return node["enum"][0] if "enum" in node else "a" * max(1, node.get("minLength", 0))
        case "integer":
            return max(0, node.get("minimum", 0))
        case "boolean":
            return False
        case "array":
            return []
    return {name: _plain(node["properties"][name]) for name in node.get("required", ())}


def _too_much(node: Schema) -> list[Any]:
    values: list[Any] = []
    if "enum" in node:
        values.append("Nonsense")
    if "maxLength" in node:
        values.append("a" * (node["maxLength"] + 1))
    if "minimum" in node:
        values.append(node["minimum"] - 1)
    if "maximum" in node:
        values.append(node["maximum"] + 1)
    if "maxItems" in node:
        values.append([_plain(node["items"])] * (node["maxItems"] + 1))
    if "maxProperties" in node:
        values.append({f"k{index}": 1 for index in range(node["maxProperties"] + 1)})
    return values


def _put_status(status: dict[str, Any], schema: Schema, names: list[str], value: Any) -> None:
    here: Any = status
    for index, name in enumerate(names):
        plain, last = name.removesuffix("[]").removesuffix("{}"), index == len(names) - 1
        schema = schema["properties"][plain]
        if name.endswith(("[]", "{}")):
            schema = schema["items"] if name.endswith("[]") else schema["additionalProperties"]
            item = value if last else _plain(schema)
            here[plain] = [item] if name.endswith("[]") else {"k": item}
            here = item
        elif last:
            here[plain] = value
        else:
            here = here.setdefault(plain, _plain(schema))


@pytest.mark.lab
@pytest.mark.parametrize("kind", FIELDS)
def test_status_limits_hold(api_server: ApiServer, stored: Any, kind: str) -> None:
    """Status is written by us alone; its limits keep objects small and rules cheap."""
    manifest = base(kind)
    if kind != "AddressClaim":
        manifest["metadata"]["name"] = f"status-{kind.lower()}"
    body = stored(manifest)
    schema = SCHEMAS[kind]["properties"]["status"]
    tried = 0
    for path, node in walk(schema):
        for value in _too_much(node) if path else ():
            changed = copy.deepcopy(body)
            _put_status(changed["status"], schema, path.split("."), value)
            answer = api_server.replace(changed, subresource="/status")
            assert answer.status == 422, (path, value if len(str(value)) < 80 else "...", answer.message[:300])
            assert path.split(".")[-1].removesuffix("[]").removesuffix("{}") in answer.message
            tried += 1
    assert tried > 5


@pytest.mark.lab
def test_namespaced_and_cluster_scoped(api_server: ApiServer) -> None:
    """Scopes are as the models say: a cluster-scoped kind has no namespaced path."""
    for kind in KINDS:
        answer = api_server.call("GET", f"/apis/limiquantix.io/v1alpha1/namespaces/{NAMESPACE}/{kind.plural}")
        assert answer.accepted == (kind.scope == Scope.NAMESPACED), kind.kind_name
