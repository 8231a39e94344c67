"""An API server in memory: implements ports.Resources, with the semantics that our protocol leans on.

uids, resourceVersions, generations, preconditions, status isolation, server-side apply, finalizers, owner
references, time travel. tests/contract/resources holds it against the real one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.jsondoc import Owned, drop, json_patch, leaves, list_map_keys, merge

from lq_operator.api.base import Resource, Scope
from lq_operator.core.result import Conflict, NotFound, Rejected

K = TypeVar("K", bound=Resource)
Kind = type[Resource]
Raw = dict[str, Any]
Raws = list[Raw]  # FakeApi.list hides the builtin inside its class
Ops = list["Op"]
Id = tuple[str, str]  # kind name, key


class Crash(BaseException):
    """The process dies here. No `except Exception` may survive it."""


@dataclass(frozen=True)
class Op:
    """One call, as hooks see it. `verb`: get list create delete patch patch/status apply/status read."""

    n: int
    verb: str
    kind: str
    key: str
    manager: str = ""

    @property
    def write(self) -> bool:
        """Does it change anything?"""
        return self.verb not in ("get", "list", "read")


@dataclass
class _State:
    """Everything that etcd would hold."""

    objects: dict[Id, Raw] = field(default_factory=dict)
    owned: dict[tuple[Id, str], Owned] = field(default_factory=dict)  # (object, manager) -> status leaves
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    secrets: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    version: int = 1


def _nothing(op: Op) -> None:
    del op


class FakeApi:
    """One API server. `before(op)` and `after(op)` may raise: Crash, or any error of core/result.

    Raised before: nothing was done. Raised after: the write is done (that is what OutcomeUnknown looks like).
    """

    def __init__(self, clock: FakeClock | None = None, *, kube_system_uid: str = "installation-1") -> None:
        self._clock = clock or FakeClock()
        self._state = _State()
        self._kinds: dict[str, Kind] = {}
        self._list_keys: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {}
        self._uids = 0
        self._calls = 0
        self._watchers: list[Callable[[str, str, Raw], None]] = []
        self._on_rewind: list[Callable[[], None]] = []
        self.kube_system = kube_system_uid
        self.before: Callable[[Op], None] = _nothing
        self.after: Callable[[Op], None] = _nothing
        self.on_write: Callable[[str, str], None] = lambda kind, verb: None
        self.ops: Ops = []

    # ---------------------------------------------------------------- ports.Resources

    async def get(self, kind: type[K], namespace: str | None, name: str) -> K | None:
        key = _key(namespace, name)
        self._begin("get", kind, key)
        raw = self._state.objects.get((kind.kind_name, key))
        return None if raw is None else _parse(kind, raw)

    async def list(self, kind: type[K]) -> Sequence[K]:
        self._begin("list", kind, "")
        return [_parse(kind, raw) for raw in self.raw_list(kind)]

    async def create(self, obj: K, *, manager: str = "lq-operator") -> K:
        kind = type(obj)
        op = self._begin("create", kind, obj.key, manager)
        if kind.scope is Scope.NAMESPACED and not obj.metadata.namespace:
            raise ValueError(f"{kind.kind_name} {obj.metadata.name!r} is namespaced: give its namespace")
        if (kind.kind_name, obj.key) in self._state.objects:
            raise Conflict(f"{kind.kind_name} {obj.key} already exists")
        raw = obj.model_dump(by_alias=True, mode="json", exclude_unset=True, exclude_none=True, exclude={"status"})
        raw |= {"apiVersion": obj.api_version, "kind": kind.kind_name}
        self._uids += 1
        raw["metadata"] = {
            **{k: v for k, v in raw["metadata"].items() if k not in ("deletionTimestamp", "resourceVersion")},
            "uid": f"uid-{self._uids}",
            "generation": 1,
            "creationTimestamp": self._clock.now_rfc3339(),
        }
        self._validate(kind, raw)
        self._write(kind, obj.key, raw)
        self.after(op)
        return _parse(kind, raw)

    async def delete(self, kind: Kind, namespace: str | None, name: str, *, uid: str) -> None:
        key = _key(namespace, name)
        op = self._begin("delete", kind, key)
        raw = self._state.objects.get((kind.kind_name, key))
        if raw is not None:
            if raw["metadata"]["uid"] != uid:
                raise Conflict(f"{kind.kind_name} {key} has another uid than {uid}")
            self._delete(kind, key)
        self.after(op)

    async def json_patch(
        self,
        kind: type[K],
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        subresource: str | None = None,
        manager: str = "lq-operator",
    ) -> K:
        key = _key(namespace, name)
        op = self._begin(f"patch/{subresource}" if subresource else "patch", kind, key, manager)
        stored = self._existing(kind, key)
        patched = json_patch(stored, operations)
        written = self._replace(kind, key, stored, patched, subresource)
        self.after(op)
        return _parse(kind, written)

    async def apply_status(self, obj: K, status: Mapping[str, Any], *, manager: str) -> K:
        kind, key = type(obj), obj.key
        op = self._begin("apply/status", kind, key, manager)
        stored = self._existing(kind, key)
        if stored["metadata"]["uid"] != obj.metadata.uid:
            raise Conflict(f"{kind.kind_name} {key} has another uid than {obj.metadata.uid}")
        keys = self._list_keys[kind.kind_name]
        mine = frozenset(leaves({"status": dict(status)}, keys)) if status else frozenset()
        ident = (kind.kind_name, key)
        gone = self._state.owned.get((ident, manager), frozenset()) - mine
        others = [owned for (owner, name), owned in self._state.owned.items() if owner == ident and name != manager]
        applied = copy.deepcopy(stored)
        for path in gone:
            if not any(path in owned for owned in others):
                drop(applied, path, keys)
        applied = merge(applied, {"status": dict(status)}, keys)
        written = self._replace(kind, key, stored, applied, "status")
        self._state.owned[(ident, manager)] = mine
        self.after(op)
        return _parse(kind, written)

    async def read_secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        self._call(Op(self._calls + 1, "read", "Secret", f"{namespace}/{name}"))
        found = self._state.secrets.get((namespace, name))
        return None if found is None else dict(found)

    async def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        self._call(Op(self._calls + 1, "read", "Namespace", namespace))
        found = self._state.namespaces.get(namespace)
        return None if found is None else dict(found)

    async def kube_system_uid(self) -> str:
        self._call(Op(self._calls + 1, "read", "Namespace", "kube-system"))
        return self.kube_system

    # ---------------------------------------------------------------- what people and the cluster do

    def put_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Create or relabel a namespace."""
        self._state.namespaces[name] = dict(labels or {})

    def put_secret(self, namespace: str, name: str, data: Mapping[str, bytes]) -> None:
        """Create or replace a Secret."""
        self._state.secrets[(namespace, name)] = dict(data)

    def user_apply(self, obj: K) -> K:
        """What `kubectl apply` of a manifest does: create, or replace spec, labels and annotations. Runs no hooks."""
        kind = type(obj)
        self._learn(kind)
        stored = self._state.objects.get((kind.kind_name, obj.key))
        manifest = obj.model_dump(by_alias=True, mode="json", exclude_unset=True, exclude_none=True, exclude={"status"})
        if stored is None:
            self._uids += 1
            raw = manifest | {"apiVersion": obj.api_version, "kind": kind.kind_name}
            raw["metadata"] |= {
                "uid": f"uid-{self._uids}",
                "generation": 1,
                "creationTimestamp": self._clock.now_rfc3339(),
            }
            self._validate(kind, raw)
            self._write(kind, obj.key, raw)
            return _parse(kind, raw)
        changed = copy.deepcopy(stored)
        changed["spec"] = manifest.get("spec", {})
        for part in ("labels", "annotations"):
            if part in manifest["metadata"]:
                changed["metadata"][part] = manifest["metadata"][part]
        return _parse(kind, self._replace(kind, obj.key, stored, changed, None))

    def user_delete(self, kind: Kind, namespace: str | None, name: str) -> None:
        """What `kubectl delete --wait=false` does. Runs no hooks."""
        key = _key(namespace, name)
        self._existing(kind, key)
        self._delete(kind, key)

    def gc(self) -> int:
        """One run of the garbage collector: objects all of whose owners are gone are deleted. Returns how many."""
        deleted = 0
        while True:
            uids = {raw["metadata"]["uid"] for raw in self._state.objects.values()}
            orphans = [
                ident
                for ident, raw in self._state.objects.items()
                if (owners := raw["metadata"].get("ownerReferences"))
                and not any(owner["uid"] in uids for owner in owners)
                and "deletionTimestamp" not in raw["metadata"]
            ]
            if not orphans:
                return deleted
            for name, key in orphans:
                self._delete(self._kinds[name], key)
                deleted += 1

    # ---------------------------------------------------------------- time travel

    def snapshot(self) -> object:
        """What `etcdctl snapshot save` takes."""
        return copy.deepcopy(self._state)

    def restore(self, snapshot: object) -> None:
        """Back to the snapshot, resourceVersions included. uids given out later stay unique, as they are random."""
        assert isinstance(snapshot, _State)
        self._state = copy.deepcopy(snapshot)
        for callback in self._on_rewind:
            callback()

    def wipe(self, *, kube_system_uid: str | None = None) -> None:
        """A new, empty etcd; by default the new cluster has another kube-system uid."""
        self._state = _State()
        self.kube_system = kube_system_uid or f"{self.kube_system}'"
        for callback in self._on_rewind:
            callback()

    # ---------------------------------------------------------------- for FakeStore and assertions

    def watch(self, on_event: Callable[[str, str, Raw], None], on_rewind: Callable[[], None]) -> None:
        """on_event(type, kind name, raw) for every write; on_rewind() after restore() and wipe()."""
        self._watchers.append(on_event)
        self._on_rewind.append(on_rewind)

    def raw(self, kind: Kind, namespace: str | None, name: str) -> Raw | None:
        """The stored document, without counting as a call."""
        found = self._state.objects.get((kind.kind_name, _key(namespace, name)))
        return copy.deepcopy(found)

    def raw_list(self, kind: Kind) -> Raws:
        """The stored documents of a kind in key order, as etcd lists them."""
        found = [(key, raw) for (name, key), raw in self._state.objects.items() if name == kind.kind_name]
        return [copy.deepcopy(raw) for _, raw in sorted(found, key=lambda pair: pair[0])]

    def writes(self) -> Ops:
        """Every write call so far."""
        return [op for op in self.ops if op.write]

    # ---------------------------------------------------------------- inside

    def _begin(self, verb: str, kind: Kind, key: str, manager: str = "") -> Op:
        self._learn(kind)
        op = Op(self._calls + 1, verb, kind.kind_name, key, manager)
        self._call(op)
        if op.write:
            self.on_write(kind.kind_name, verb)
        return op

    def _call(self, op: Op) -> None:
        self._calls += 1
        self.ops.append(op)
        self.before(op)

    def _learn(self, kind: Kind) -> None:
        if kind.kind_name not in self._kinds:
            self._kinds[kind.kind_name] = kind
            self._list_keys[kind.kind_name] = list_map_keys(kind.model_json_schema(by_alias=True))

    def _existing(self, kind: Kind, key: str) -> Raw:
        raw = self._state.objects.get((kind.kind_name, key))
        if raw is None:
            raise NotFound(f"{kind.kind_name} {key} does not exist")
        return raw

    def _validate(self, kind: Kind, raw: Raw) -> None:
        try:
            kind.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            field_name = ".".join(str(part) for part in first["loc"])
            raise Rejected(
                f"{kind.kind_name} {_key_of(raw)}: {field_name}: {first['msg']}", field=field_name
            ) from error

    def _replace(self, kind: Kind, key: str, stored: Raw, new: Raw, subresource: str | None) -> Raw:
        """Store `new` over `stored` as an update of the main resource or of status would; returns what is stored."""
        for name in ("uid", "creationTimestamp", "deletionTimestamp", "generation", "name", "namespace"):
            _carry(stored["metadata"], new["metadata"], name)
        if subresource == "status":
            meta = new["metadata"]
            new = {**new, "metadata": stored["metadata"] | {"resourceVersion": meta.get("resourceVersion")}}
            _carry(stored, new, "spec")
        else:
            _carry(stored, new, "status")
        if new["metadata"].get("resourceVersion") != stored["metadata"]["resourceVersion"]:
            raise Conflict(f"{kind.kind_name} {key}: the object has been modified")
        self._validate(kind, new)
        if new == stored:
            return stored  # the API server writes nothing, so no new resourceVersion
        if new.get("spec") != stored.get("spec"):
            new["metadata"]["generation"] += 1
        if "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers"):
            self._remove(kind, key, new)
        else:
            self._write(kind, key, new)
        return new

    def _write(self, kind: Kind, key: str, raw: Raw) -> None:
        raw.setdefault("status", {"observedGeneration": -1})  # the CRDs' default
        ident = (kind.kind_name, key)
        known = ident in self._state.objects
        self._state.version += 1
        raw["metadata"]["resourceVersion"] = str(self._state.version)
        self._state.objects[ident] = copy.deepcopy(raw)
        self._tell("MODIFIED" if known else "ADDED", kind, raw)

    def _delete(self, kind: Kind, key: str) -> None:
        raw = copy.deepcopy(self._state.objects[(kind.kind_name, key)])
        if not raw["metadata"].get("finalizers"):
            self._remove(kind, key, raw)
        elif "deletionTimestamp" not in raw["metadata"]:
            raw["metadata"]["deletionTimestamp"] = self._clock.now_rfc3339()
            raw["metadata"]["generation"] += 1
            self._write(kind, key, raw)

    def _remove(self, kind: Kind, key: str, raw: Raw) -> None:
        ident = (kind.kind_name, key)
        self._state.version += 1
        raw["metadata"]["resourceVersion"] = str(self._state.version)
        del self._state.objects[ident]
        for owner in [owner for owner in self._state.owned if owner[0] == ident]:
            del self._state.owned[owner]
        self._tell("DELETED", kind, raw)

    def _tell(self, event: str, kind: Kind, raw: Raw) -> None:
        for watcher in self._watchers:
            watcher(event, kind.kind_name, copy.deepcopy(raw))


class FakeStore:
    """ports.Store over a FakeApi. `live`: every write is seen at once; else only what sync() delivers."""

    def __init__(self, api: FakeApi, *, live: bool = True) -> None:
        self._api = api
        self.live = live
        self._pending: list[tuple[str, str, Raw]] = []
        self._rewound = False
        self._raw: dict[Id, Raw] = {}
        self._parsed: dict[tuple[Id, str], Resource] = {}
        self._subscribers: list[Callable[[Kind, str], None]] = []
        self._on_went_back: list[Callable[[object], None]] = []
        self._kinds: dict[str, Kind] = {}
        self.unsynced: set[str] = set()
        api.watch(self._event, self._rewind)
        self._relist()

    def get(self, kind: type[K], namespace: str | None, name: str) -> K | None:
        self._kinds[kind.kind_name] = kind
        raw = self._raw.get((kind.kind_name, _key(namespace, name)))
        return None if raw is None else self._parse(kind, raw)

    def list(self, kind: type[K]) -> Sequence[K]:
        self._kinds[kind.kind_name] = kind
        return [self._parse(kind, raw) for (name, _), raw in sorted(self._raw.items()) if name == kind.kind_name]

    def synced(self, *kinds: Kind) -> bool:
        """False for the kinds whose names a test has put into `unsynced`."""
        return not any(kind.kind_name in self.unsynced for kind in kinds)

    def broken(self, kind: Kind) -> Sequence[object]:
        """FakeApi validates every write, so nothing is broken."""
        del kind
        return ()

    def subscribe(self, callback: Callable[[Kind, str], None]) -> None:
        """callback(kind, key) for each delivered change."""
        self._subscribers.append(callback)

    def on_went_back(self, callback: Callable[[object], None]) -> None:
        """Called when a restore or wipe is delivered."""
        self._on_went_back.append(callback)

    @property
    def pending(self) -> int:
        """Events that sync() would deliver."""
        return len(self._pending)

    def sync(self, limit: int | None = None) -> int:
        """Deliver what has happened, or the first `limit` events of it. Returns how many changes were delivered."""
        if self._rewound:
            self._rewound = False
            self._pending.clear()
            changed = self._relist()
            for callback in self._on_went_back:
                callback(self)
            return changed
        events, self._pending = self._pending[:limit], self._pending[limit:] if limit is not None else []
        for event in events:
            self._deliver(*event)
        return len(events)

    def _event(self, event: str, kind_name: str, raw: Raw) -> None:
        if self._rewound:
            return  # the relist will show it
        self._pending.append((event, kind_name, raw))
        if self.live:
            self.sync()

    def _rewind(self) -> None:
        self._rewound = True
        if self.live:
            self.sync()

    def _deliver(self, event: str, kind_name: str, raw: Raw) -> None:
        ident = (kind_name, _key_of(raw))
        if event == "DELETED":
            self._raw.pop(ident, None)
        else:
            self._raw[ident] = raw
        self._notify(ident)

    def _relist(self) -> int:
        fresh = {ident: copy.deepcopy(raw) for ident, raw in self._api._state.objects.items()}
        changed = sorted(ident for ident in self._raw.keys() | fresh.keys() if self._raw.get(ident) != fresh.get(ident))
        self._raw = fresh
        self._parsed.clear()
        for ident in changed:
            self._notify(ident)
        return len(changed)

    def _notify(self, ident: Id) -> None:
        kind = self._kinds.get(ident[0]) or self._api._kinds.get(ident[0])
        if kind is not None:
            for callback in self._subscribers:
                callback(kind, ident[1])

    def _parse(self, kind: type[K], raw: Raw) -> K:
        slot = ((kind.kind_name, _key_of(raw)), f"{raw['metadata']['uid']}/{raw['metadata']['resourceVersion']}")
        if slot not in self._parsed:
            self._parsed[slot] = _parse(kind, raw)
        parsed = self._parsed[slot]
        assert isinstance(parsed, kind)
        return parsed


def _key(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _key_of(raw: Raw) -> str:
    return _key(raw["metadata"].get("namespace"), raw["metadata"]["name"])


def _carry(source: Raw, target: Raw, name: str) -> None:
    """target[name] = source[name], present or not."""
    if name in source:
        target[name] = copy.deepcopy(source[name])
    else:
        target.pop(name, None)


def _parse(kind: type[K], raw: Raw) -> K:
    parsed: K = kind.model_validate(raw)
    return parsed
