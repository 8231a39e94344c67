"""What every kind has in common: metadata, conditions, references, limits, and how a kind declares itself. No IO."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

GROUP = "limiquantix.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/protection"


def list_map(*keys: str) -> dict[str, Any]:
    """json_schema_extra of a list whose items are named: merged by key, not by position."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


class ApiModel(BaseModel):
    """Base of everything in a manifest: camelCase on the wire, immutable in memory, unknown fields ignored on read
    (a newer version may have written them; writers only ever send what they own)."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    cel: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(CEL rule, message) pairs; crdgen writes them as x-kubernetes-validations of this object."""

    atomic: ClassVar[bool] = False
    """Written as a whole by whoever writes it: managedFields names the object, not each field in it. A third of a VM's
    bytes are names of fields otherwise, and the API server compares them at every write."""

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # pydantic copies defaults for every object that it parses (measured: a fifth of a scheduler's time on its main
        # loop); nobody changes a model, so the default may be the same object everywhere.
        return self


DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A Kubernetes name of at most 63 characters: fits host names, file names and labels."""

DnsName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""A Kubernetes object name."""

Quantity = Annotated[
    str, Field(min_length=1, max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
]
"""A quantity as Kubernetes writes it: 512Mi, 4Gi."""

Text = Annotated[str, Field(max_length=1000)]
"""Free text for people, written by us; never interpreted."""

NO_CONTROL = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\x{fffe}\x{ffff}]*$"
"""What a user may write as free text: XML 1.0 cannot carry these characters, and a terminal would obey some of them.
Read by Rust's regex (pydantic) and Go's RE2 (the API server) alike; Python's `re` knows no \\x{...}."""

UserText = Annotated[str, Field(max_length=1000, pattern=NO_CONTROL)]
"""Free text from a user; never interpreted."""

_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=_LABEL_KEY)]
"""A label key as Kubernetes writes it: tier, example.com/rack."""

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
"""A label value as Kubernetes writes it; may be empty."""

_LABEL_KEYS: dict[str, Any] = {
    "x-kubernetes-validations": [
        {
            "rule": f"self.all(key, key.size() <= 317 && key.matches('{_LABEL_KEY}'))",
            "message": "every key must be a label key of at most 317 characters, for example example.com/rack",
        }
    ]
}

LabelMap = Annotated[dict[str, LabelValue], Field(max_length=32, json_schema_extra=_LABEL_KEYS)]
"""Label key -> value, at most 32."""

MatchLabels = Annotated[dict[str, LabelValue], Field(max_length=16, json_schema_extra=_LABEL_KEYS)]
"""Label key -> value in a selector, at most 16. Selectors are kept small because objects have many of them: with every
limit used at once an object must still fit into etcd's 1.5 MiB."""


class OwnerReference(ApiModel):
    """metadata.ownerReferences[]."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ApiModel):
    """The part of Kubernetes metadata that we read and write."""

    name: str = ""
    namespace: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    owner_references: list[OwnerReference] = Field(default_factory=list)


class NodeStatusRef(ApiModel):
    """Names a host by node and by who it is."""

    node: DnsName
    host_uuid: Annotated[str, Field(alias="hostUUID", max_length=36)] = ""


ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """One condition, as in metav1.Condition."""

    type: Annotated[str, Field(max_length=100, description="What is said, e.g. Ready.")]
    status: Annotated[ConditionStatus, Field(description="True, False or Unknown.")]
    reason: Annotated[str, Field(max_length=100, description="One word from the kind's list of reasons.")] = ""
    message: Annotated[str, Field(max_length=4096, description="A sentence with the remedy.")] = ""
    last_transition_time: Annotated[str, Field(max_length=40, description="When status last changed.")] = ""
    observed_generation: Annotated[int, Field(description="Generation that was judged.")] = 0


class Status(ApiModel):
    """What every status has. `observedGeneration` defaults to -1 so that kstatus waits for us."""

    observed_generation: Annotated[int, Field(description="Generation of spec that this status speaks about.")] = -1
    conditions: Annotated[list[Condition], Field(max_length=20, json_schema_extra=list_map("type"))] = Field(
        default_factory=list
    )

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, or None."""
        return next((c for c in self.conditions if c.type == kind), None)


class LocalRef(ApiModel):
    """Names an object of the same namespace (or a cluster-scoped one)."""

    name: DnsName
    """Its metadata.name."""


class SharedRef(ApiModel):
    """Names an object that may live in another namespace which allows it (allowedNamespaces)."""

    name: DnsName
    """Its metadata.name."""
    namespace: Annotated[DnsLabel | None, Field(description="Left out: the referring object's own namespace.")] = None


class SecretKeyRef(ApiModel):
    """One key of a Secret. Cluster-scoped kinds resolve it in the operator's namespace, others in their own."""

    name: DnsName
    """The Secret's metadata.name."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key in the Secret's data."""


class LabelSelectorRequirement(ApiModel):
    """key In/NotIn/Exists/DoesNotExist values, as in metav1."""

    key: LabelKey
    """Label that is looked at."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """In and NotIn compare with values; Exists and DoesNotExist look at the key alone."""
    values: Annotated[list[LabelValue], Field(max_length=16)] = Field(default_factory=list)
    """For In and NotIn."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "self.operator in ['In', 'NotIn'] ? (has(self.values) && self.values.size() > 0) : (!has(self.values) || self.values.size() == 0)",
            "values are required for In and NotIn, and not allowed for Exists and DoesNotExist",
        ),
    )


class LabelSelector(ApiModel):
    """A label selector, as in metav1: all of matchLabels and all of matchExpressions."""

    match_labels: MatchLabels = Field(default_factory=dict)
    """Labels that must be there with exactly these values."""
    match_expressions: Annotated[list[LabelSelectorRequirement], Field(max_length=8)] = Field(default_factory=list)
    """Terms that must all hold."""

    def matches(self, labels: dict[str, str]) -> bool:
        """True when `labels` satisfies every term; the empty selector matches everything."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        return all(_requirement_holds(term, labels) for term in self.match_expressions)


def _requirement_holds(term: LabelSelectorRequirement, labels: dict[str, str]) -> bool:
    value = labels.get(term.key)
    match term.operator:
        case "In":
            return value is not None and value in term.values
        case "NotIn":
            return value is None or value not in term.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


class AllowedNamespaces(ApiModel):
    """Who may refer to this object from another namespace, as in the Gateway API."""

    from_: Annotated[
        Literal["Same", "All", "Selector"],
        Field(alias="from", description="Same: only its own namespace. All: everyone. Selector: by namespace labels."),
    ] = "Same"
    selector: LabelSelector | None = None
    """Labels of the namespaces that may refer to this object; for from: Selector."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("self.from != 'Selector' || has(self.selector)", "selector is required when from is Selector"),
        ("self.from == 'Selector' || !has(self.selector)", "selector is for from: Selector only"),
    )

    def admits(self, *, own_namespace: str | None, namespace: str, labels: dict[str, str]) -> bool:
        """May an object of `namespace` (with these namespace labels) refer to us? `own_namespace` is None for
        cluster-scoped kinds, where Same admits nobody."""
        match self.from_:
            case "All":
                return True
            case "Same":
                return own_namespace == namespace
            case "Selector":
                return namespace == own_namespace or (self.selector is not None and self.selector.matches(labels))


class PrinterColumn(BaseModel):
    """One column of `kubectl get`. priority 1 shows it with -o wide only."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: str
    type: Literal["string", "integer", "date", "boolean"] = "string"
    priority: int = 0
    description: str = ""


READY = PrinterColumn(name="Ready", path='.status.conditions[?(@.type=="Ready")].status')
REASON = PrinterColumn(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason')
AGE = PrinterColumn(name="Age", path=".metadata.creationTimestamp", type="date")
MESSAGE = PrinterColumn(name="Message", path='.status.conditions[?(@.type=="Ready")].message', priority=1)


class Scope(StrEnum):
    """Where a kind lives."""

    NAMESPACED = "Namespaced"
    CLUSTER = "Cluster"


class Resource(ApiModel):
    """Base of every kind. Subclasses have `spec` and `status` and declare the class variables below."""

    kind_name: ClassVar[str]
    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]] = ()
    scope: ClassVar[Scope] = Scope.NAMESPACED
    columns: ClassVar[tuple[PrinterColumn, ...]] = (READY, REASON, AGE)
    name_rule: ClassVar[tuple[str, str] | None] = None
    """(CEL rule over self.metadata.name, message) where a kind narrows its names."""
    selectable: ClassVar[tuple[str, ...]] = ()
    """Paths for `kubectl get --field-selector` and for watches of a part, besides metadata."""

    api_version: str = API_VERSION
    kind: str = ""
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @model_validator(mode="before")
    @classmethod
    def _fill_kind(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("kind") and hasattr(cls, "kind_name"):
            return {**data, "kind": cls.kind_name}
        return data

    @property
    def key(self) -> str:
        """namespace/name, or name for cluster-scoped kinds."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.metadata.namespace else self.metadata.name

    @property
    def seniority(self) -> tuple[str, str]:
        """Sorts the oldest first, and those of one second by name."""
        return self.metadata.creation_timestamp or "", self.key

    @property
    def deleting(self) -> bool:
        """True once somebody asked for deletion."""
        return self.metadata.deletion_timestamp is not None
