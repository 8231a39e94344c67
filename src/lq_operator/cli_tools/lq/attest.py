"""attest NODE: a person's statement that a host is off, written only after the person has typed what was seen.

The statement is evidence under which VMs start elsewhere (docs/guides/host-failure.md): a wrong one runs them twice.
"""

from __future__ import annotations

import getpass
import sys
from argparse import Namespace

from lq_operator.api.attestation import HostAttestation, HostAttestationSpec
from lq_operator.api.base import ObjectMeta
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import HypervisorNode
from lq_operator.cli_tools.lq.cluster import connect, new_name, require
from lq_operator.cli_tools.lq.names import node_name
from lq_operator.cli_tools.lq.progress import Progress, until
from lq_operator.cli_tools.text import to_json
from lq_operator.core.result import Rejected

VERDICT_TIMEOUT_S = 60.0


async def run(arguments: Namespace) -> int:
    """0 when it was accepted (with --no-wait: written)."""
    async with connect(arguments) as cluster:
        node = await cluster.find(HypervisorNode, node_name(arguments.node))
        name = node.metadata.name
        ready = node.status.condition("Ready")
        if ready is not None and ready.status == "True":
            raise Rejected(f"hvn/{name} answers (Ready since {ready.last_transition_time}): there is nothing to attest")
        if ready is None or ready.status != "Unknown":
            said = f"{ready.reason}: {ready.message}" if ready else "nothing"
            print(f"hvn/{name} is not silent but says {said}", file=sys.stderr)
        uuid = require(
            node.status.host_uuid, f"status.hostUUID of hvn/{name}", "it was never connected: nothing runs there by us"
        )
        boot = require(
            node.status.boot, f"status.boot of hvn/{name}", "it was never taken over: nothing runs there by us"
        )
        owner = await cluster.find(HypervisorCluster, node.spec.cluster_ref.name)
        spec = HostAttestationSpec(
            node=name,
            host_uuid=uuid,
            boot=boot,
            term=owner.status.term,
            statement="Destroyed" if arguments.destroyed else "PoweredOff",
            seen=_seen(arguments, node),
            attested_by=arguments.attested_by or await cluster.who_am_i() or getpass.getuser(),
        )
        _confirm(arguments, node, spec.statement)
        made = await cluster.create(HostAttestation(metadata=ObjectMeta(name=new_name(name, "attested")), spec=spec))
        progress = Progress(quiet=arguments.output == "json")
        verdict: HostAttestation | None = made
        if arguments.wait:

            async def look() -> HostAttestation | None:
                now = await cluster.find(HostAttestation, made.metadata.name)
                condition = now.status.condition("Ready")
                progress.say(f"attestation/{made.metadata.name}: waiting for the operator's verdict")
                return now if condition is not None and now.status.observed_generation >= 0 else None

            verdict = await until(look, timeout_s=VERDICT_TIMEOUT_S)
            progress.end()
    return _say(made, verdict, arguments)


def _seen(arguments: Namespace, node: HypervisorNode) -> str:
    seen: str = arguments.seen or ""
    if not seen and sys.stdin.isatty():
        print(
            f"hvn/{node.metadata.name}: last heard of {node.status.last_contact or 'never'}, {node.status.vms} VMs then."
        )
        print("Its VMs will be started elsewhere. If it still runs them, they run twice and their disks are destroyed.")
        seen = input("What did you see that proves that it is off? ").strip()
    if len(seen) < 10:
        raise Rejected(
            "--seen: say in at least ten characters what you saw, for example --seen 'pulled both cords in rack 4'"
        )
    return seen


def _confirm(arguments: Namespace, node: HypervisorNode, statement: str) -> None:
    if arguments.yes:
        return
    name = node.metadata.name
    if not sys.stdin.isatty():
        raise Rejected(f"nobody can confirm here: add --yes to state that {name} is {statement}")
    if input(f"Type the host's name to state that it is {statement}: ").strip() != name:
        raise Rejected("that is not its name: nothing was written")


def _say(made: HostAttestation, verdict: HostAttestation | None, arguments: Namespace) -> int:
    name = made.metadata.name
    status = verdict.status if verdict else made.status
    condition = status.condition("Ready")
    if arguments.output == "json":
        facts = {"attestation": name, "node": made.spec.node, "accepted": status.accepted, "void": status.void}
        print(to_json(facts | {"message": condition.message if condition else ""}))
    elif not arguments.wait:
        print(f"attestation/{name}: written")
    elif verdict is None:
        print(f"attestation/{name}: written; the operator has not judged it: kubectl get attest {name}")
    else:
        said = f": {condition.message}" if condition and condition.message else ""
        print(f"attestation/{name}: {'accepted' if status.accepted else 'NOT accepted'}{said}")
    return 0 if status.accepted or not arguments.wait else 1
