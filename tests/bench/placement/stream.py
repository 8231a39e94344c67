"""A seeded stream for the placement engine: hosts in zones and racks, 96 request classes, arrivals, departures and
host changes mixed. The sizes are those of the shared generator (1..32 vCPU, 2/4/8 GiB per vCPU)."""

from __future__ import annotations

import random
from dataclasses import replace

from lq_operator.core.placement import (
    HostFacts,
    HostLoad,
    Placed,
    PlacementEngine,
    PlacementRequest,
    PoolReach,
    Shape,
    SpreadTerm,
    VmKey,
    VmTerm,
)
from lq_operator.core.placement.selectors import Taint, Toleration, match_labels

ZONE, RACK = "topology.kubernetes.io/zone", "topology.limiquantix.io/rack"
MODELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")


def make_host(number: int, rng: random.Random) -> HostFacts:
    """64 cores, 768 GiB, overcommit 4; a few are cordoned, tainted or older."""
    rack = number // 20
    labels = {ZONE: f"zone-{rack % 3}", RACK: f"rack-{rack}", "tier": "gold" if number % 3 == 0 else "silver"}
    return HostFacts(
        f"host-{number:05d}",
        pcpus=64,
        memory_mib=786432,
        overcommit_milli=4000,
        reserved_memory_mib=16384,
        hugepages={1048576: 64},
        labels=labels,
        taints=(Taint("gpu", "true"),) if number % 10 == 0 else (),
        cordoned=number % 50 == 7,
        ready=number % 97 != 5,
        not_ready_reason="" if number % 97 != 5 else "no contact",
        devices={"nvidia.com/a2": 2} if number % 10 == 0 else {},
        pools={"shared-a": PoolReach(2**50, shared=True), "local": PoolReach(rng.randrange(2**38, 2**42))},
        networks=frozenset({"vm-net", "storage-net"} | ({"dmz"} if number % 2 else set())),
        cpu_models=frozenset(MODELS[: 2 + (number % 4 != 0)]),
        load=HostLoad(rng.randrange(4000, 30000), rng.randrange(500, 4000)),
    )


def make_shapes(count: int, rng: random.Random) -> list[Shape]:
    """Every class meets at least ten filters; two thirds have anti-affinity, half spread over zones."""
    shapes = []
    for number in range(count):
        vcpus = rng.choices([1, 2, 4, 8, 16, 32], [12, 28, 28, 20, 10, 2])[0]
        app = {"app": f"app-{number}"}
        chosen = match_labels(app)
        gpu = number % 16 == 3
        shapes.append(
            Shape(
                vcpus,
                vcpus * rng.choices([2, 4, 8], [30, 45, 25])[0] * 1024,
                cpu_model=MODELS[number % 2],
                networks=frozenset({"vm-net"} if number % 4 else {"vm-net", "dmz"}),
                pools={"shared-a": 0, "local": 2**34},
                devices={"nvidia.com/a2": 1} if gpu else {},
                tolerations=(Toleration("gpu", exists=True),) if gpu else (),
                node_selector=match_labels({"tier": "gold"}) if number % 5 == 0 else match_labels({}),
                node_affinity=(match_labels({"tier": "gold"}), match_labels({"tier": "silver"})),
                labels=app,
                anti_affinity=(VmTerm(chosen),) if number % 3 else (),
                spread=(SpreadTerm(chosen, ZONE, 2),) if number % 2 else (),
            )
        )
    return shapes


class Stream:
    """Drives an engine; `step` is one arrival with its share of departures and host changes."""

    def __init__(self, hosts: int, engine: PlacementEngine, *, seed: int = 1, classes: int = 96, fill: float = 0.5):
        self.rng = random.Random(seed)
        self.engine = engine
        self.hosts = [make_host(number, self.rng) for number in range(hosts)]
        for facts in self.hosts:
            engine.set_host(facts)
        self.shapes = make_shapes(classes, self.rng)
        self.placed: list[VmKey] = []
        self.number = 0
        self.unplaced = 0
        for facts in self.hosts:  # start state: plain VMs up to `fill` of the memory
            used = 0
            while True:
                shape = self.rng.choice(self.shapes)
                if used + shape.memory_mib > fill * facts.vm_memory_mib:
                    break
                used += shape.memory_mib
                key = self.next_key()
                engine.set_vm(Placed(key, facts.name, replace(shape, anti_affinity=(), labels={"app": "start"})))
                self.placed.append(key)

    def next_key(self) -> VmKey:
        self.number += 1
        return VmKey("bench", f"vm-{self.number}")

    def request(self) -> PlacementRequest:
        return PlacementRequest(self.next_key(), self.rng.choice(self.shapes))

    def depart(self) -> None:
        at = self.rng.randrange(len(self.placed))
        self.placed[at], self.placed[-1] = self.placed[-1], self.placed[at]
        self.engine.remove_vm(self.placed.pop())

    def change_host(self) -> None:
        at = self.rng.randrange(len(self.hosts))
        facts = self.hosts[at]
        load = HostLoad(self.rng.randrange(4000, 30000), self.rng.randrange(500, 4000))
        cordoned = not facts.cordoned if self.rng.random() < 0.1 else facts.cordoned
        self.hosts[at] = replace(facts, load=load, cordoned=cordoned)
        self.engine.set_host(self.hosts[at])

    def bind(self, request: PlacementRequest, host: str | None) -> None:
        """What the scheduler does with a decision: hold the room, then see the VM placed."""
        if host is None:
            self.unplaced += 1
            return
        reserved = self.engine.reserve(request.identity, host)
        assert not hasattr(reserved, "filter"), reserved
        self.engine.set_vm(Placed(request.identity, host, request.shape))
        self.placed.append(request.identity)
