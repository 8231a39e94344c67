"""The lab as custom resources: its cluster, hosts, pools, guest image and a network, ready for `kubectl apply`.

Says what the lab has; the demo and the end-to-end tests apply it, people may read it to see what a datacenter looks like.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lq_operator.lab.datacenter import Lab

CLUSTER = "lab"
NETWORK_SUBNET = "10.99.0.0/24"
NODE_MEMORY = "16Gi"
NODE_CPUS = 8
"""Every lab host shows the machine's own CPUs and memory; the override makes them three hosts of known size."""

Manifest = Mapping[str, Any]


def datacenter(lab: Lab, *, operator_namespace: str = "lq-system", namespace: str = "default") -> list[Manifest]:
    """Cluster, credentials, nodes, a local and a shared pool, the guest image, a NAT network and a class."""
    return [
        cluster(lab),
        credentials(lab, operator_namespace),
        *(node(lab, host.name) for host in lab.hosts),
        pool("local", "/var/lib/libvirt/lq-pool-local", "Local"),
        pool("shared", str(lab.shared_dir / "lq-pool-shared"), "Shared"),
        image(lab, namespace),
        network(namespace),
        vm_class("small", 1, "256Mi"),
    ]


def _object(kind: str, name: str, spec: Mapping[str, Any], namespace: str | None = None) -> Manifest:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "limiquantix.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def cluster(lab: Lab) -> Manifest:
    """The cluster of the lab's hosts; state lies on the shared directory, so that VMs take it along."""
    state = {"path": str(lab.shared_dir / "lq-state-shared"), "access": "Shared"}
    return _object("HypervisorCluster", CLUSTER, {"statePool": state})


def credentials(lab: Lab, operator_namespace: str) -> Manifest:
    """The Secret with which the operator speaks TLS to the hosts."""
    files = {"ca.crt": "cacert.pem", "tls.crt": "clientcert.pem", "tls.key": "clientkey.pem"}
    data = {key: base64.b64encode((Path(lab.client_pki) / file).read_bytes()).decode() for key, file in files.items()}
    metadata = {"name": "lab-hosts", "namespace": operator_namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def node(lab: Lab, name: str) -> Manifest:
    """One host."""
    uri = lab.host(name).uri.partition("?")[0]
    spec: dict[str, Any] = {
        "clusterRef": {"name": CLUSTER},
        "uri": uri,
        "capacity": {"cpu": NODE_CPUS, "memory": NODE_MEMORY},
    }
    if uri.startswith("qemu+tls"):
        spec["credentialsSecretRef"] = {"name": "lab-hosts"}
    # What the host itself adds when it calls another one: where its own credentials lie.
    if parameters := lab.host(name).peer_uri(lab.host(name)).partition("?")[2]:
        spec["migration"] = {"parameters": parameters}
    return _object("HypervisorNode", name, spec)


def pool(name: str, path: str, access: str) -> Manifest:
    """A directory pool."""
    return _object("StoragePool", name, {"clusterRef": {"name": CLUSTER}, "dir": {"path": path}, "access": access})


def image(lab: Lab, namespace: str) -> Manifest:
    """The lab's guest, from its own HTTP server."""
    source = {"url": lab.image_url, "sha256": lab.image_sha256, "format": "qcow2"}
    spec = {"source": source, "os": "LQ Lab Guest", "allowedNamespaces": {"from": "All"}}
    return _object("Image", "guest", spec, namespace)


def network(namespace: str) -> Manifest:
    """NAT with DHCP for half of its addresses; the others can be claimed."""
    spec = {
        "type": "nat",
        "subnet": NETWORK_SUBNET,
        "dhcpRange": {"start": "10.99.0.128", "end": "10.99.0.254"},
        "allowedNamespaces": {"from": "All"},
    }
    return _object("VirtualNetwork", "nat", spec, namespace)


def vm_class(name: str, cpu: int, memory: str) -> Manifest:
    """A size."""
    return _object("VirtualMachineClass", name, {"cpu": cpu, "memory": memory})


def vm(
    name: str, namespace: str = "default", *, pool: str = "shared", spec: Mapping[str, Any] | None = None
) -> Manifest:
    """A VM from the guest image with a claimed address; `spec` is merged over it."""
    base: dict[str, Any] = {
        "className": "small",
        "disks": [
            {
                "name": "root",
                "template": {
                    "size": "1Gi",
                    "poolRef": pool,
                    "source": {"imageRef": {"name": "guest", "namespace": "default"}},
                },
            }
        ],
        "interfaces": [{"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}, "addressing": "Claim"}],
        "cloudInit": {"userData": "#cloud-config\n"},
        "shutdown": {"gracePeriodSeconds": 30},
    }
    return _object("VirtualMachine", name, base | dict(spec or {}), namespace)


def migration(name: str, vm_name: str, namespace: str = "default") -> Manifest:
    """One live move, to a host that the scheduler picks."""
    return _object("VirtualMachineMigration", name, {"vmRef": {"name": vm_name}}, namespace)


def dump(manifests: Iterable[Manifest]) -> str:
    """As a multi-document YAML."""
    return yaml.safe_dump_all([dict(m) for m in manifests], sort_keys=False)
