"""Operations on a guest's accounts: SetPassword, AddSshKeys, RemoveSshKeys, through its agent, with what a Secret holds.

Apart from the power verbs: they want nothing of the VM, supersede nothing, and repeating one changes nothing, so that a
crash at any line is made up for by doing it again. What the Secret holds goes to the agent and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import GUEST_VERBS, VirtualMachineOperation
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_progress
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.controllers.runtime.placements import is_moving
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.lifecycle.accounts import InvalidSecretError, password_of, ssh_keys_of
from lq_operator.core.model import DomainSeen, DomainState, Identity
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient
from lq_operator.core.times import age_s
from lq_operator.ports import Clock, Events, Host, Resources

MANAGER = "lq-vmop"
AGAIN_S = 3.0
"""Until the deadline, while the agent does not answer or the Secret is not there."""


@dataclass(slots=True)
class GuestAccess:
    """carry_out(operation, vm) until it has ended."""

    resources: Resources
    book: HostBook
    events: Events
    clock: Clock

    async def carry_out(self, op: VirtualMachineOperation, vm: VirtualMachine) -> Requeue | None:
        """One attempt; what may pass is tried again until the operation's deadline."""
        if op.status.phase == "Pending":
            # Said before anything is done: whoever asks what happened to the guest finds it.
            await self._say(op, "Running", "Accepted", "")
            return Requeue.now()
        try:
            await self._attempt(op, vm)
        except InvalidSecretError as error:
            return await self._end(op, vm, "Failed", "InvalidSecret", str(error))
        except Rejected as error:
            return await self._end(op, vm, "Failed", "GuestRefused", str(error))
        except (Transient, Conflict, OutcomeUnknown) as error:
            if age_s(op.metadata.creation_timestamp, self.clock.now_rfc3339()) < op.spec.deadline_seconds:
                await self._say(op, "Running", "Waiting", str(error))
                return Requeue.after(AGAIN_S)
            message = f"not done within {op.spec.deadline_seconds} s: {error}"
            return await self._end(op, vm, "Failed", "DeadlineExceeded", message)
        return await self._end(op, vm, "Succeeded", "Done", "")

    async def _attempt(self, op: VirtualMachineOperation, vm: VirtualMachine) -> None:
        assert op.spec.user is not None
        assert op.spec.secret_ref is not None
        host, domain = self._where(vm)
        secret, where = op.spec.secret_ref, f"Secret {op.metadata.namespace}/{op.spec.secret_ref.name}"
        found = await self.resources.read_secret(op.metadata.namespace or "", secret.name)
        if found is None:
            raise Transient(f"{where} is not there")
        if secret.key not in found:
            raise InvalidSecretError(f"{where} has no key {secret.key}")
        value, name = found[secret.key], domain.domain_name
        if op.spec.verb == "SetPassword":
            await host.set_password(name, op.spec.user, password_of(value, f"{where}, {secret.key}"))
        else:
            keys = ssh_keys_of(value, f"{where}, {secret.key}")
            await host.change_ssh_keys(name, op.spec.user, keys, add=op.spec.verb == "AddSshKeys")

    def _where(self, vm: VirtualMachine) -> tuple[Host, DomainSeen]:
        """The one host on which this very VM runs. It is asked on the connection on which it was seen."""
        identity = Identity(self.book.installation, vm.metadata.namespace or "", vm.metadata.name)
        running = [(entry.host, domain) for entry, domain in self.book.domains_of(identity) if domain.state.runs]
        if vm.deleting or is_moving(vm):
            raise Transient("it is being deleted or moved")
        if not running and vm.status.power.state in ("Stopped", "Suspended", "Crashed"):
            raise Rejected(f"the VM is {vm.status.power.state}: its guest must run. Start it first")
        if len(running) != 1:
            raise Transient(f"the VM is {vm.status.power.state}: its host does not answer, or it has not started yet")
        host, domain = running[0]
        if domain.state is not DomainState.RUNNING or domain.uid != vm.metadata.uid:
            raise Transient(f"the VM is {vm.status.power.state}: its guest must run")
        return host, domain

    async def _end(
        self, op: VirtualMachineOperation, vm: VirtualMachine, phase: str, reason: str, message: str
    ) -> Requeue:
        await self._say(op, phase, reason, message)
        assert op.spec.secret_ref is not None
        what = f"{op.spec.verb} of {op.spec.user} from Secret {op.spec.secret_ref.name}"
        said = f"{what}: {message or reason}"
        self.events.emit(vm, f"Operation{phase}", said[:1000], warning=phase != "Succeeded")
        return Requeue.after(op.spec.ttl_seconds_after_finished)

    async def _say(self, op: VirtualMachineOperation, phase: str, reason: str, message: str) -> None:
        now, finished = self.clock.now_rfc3339(), phase in ("Succeeded", "Failed")
        progress = Progress.WORKING
        if finished:
            progress = Progress.READY if phase == "Succeeded" else Progress.STALLED
        conditions = set_progress(
            op.status.conditions, progress, reason, message, generation=op.metadata.generation, now=now
        )
        status = {
            "observedGeneration": op.metadata.generation,
            "conditions": dump_conditions(conditions),
            "phase": phase,
            "message": message[:2000],
            "startedAt": op.status.started_at or now,
            "finishedAt": now if finished else "",
            "observedStart": "",
        }
        try:
            await report_status(self.resources, op, status, MANAGER)
        except NotFound:
            return


def is_guest_verb(op: VirtualMachineOperation) -> bool:
    """Not a power verb: the VM controller has nothing to do with it."""
    return op.spec.verb in GUEST_VERBS
