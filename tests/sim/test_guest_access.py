"""Passwords and ssh keys on the simulator's hosts: crashes, waiting, refusals, and what is said of them."""

from __future__ import annotations

import json
from typing import Any

from tests.sim.scenarios import start_all
from tests.sim.test_operations import deaf_world, said
from tests.sim.test_traces import running_world
from tests.sim.world import NS, SimWorld

from lq_operator.api.vmoperation import VirtualMachineOperation

DOMAIN = f"lq_{NS}_vm"
SECRET = b"hunter2"


def ask(world: SimWorld, verb: str = "SetPassword", user: str = "root", **spec: Any) -> str:
    ref = {"name": "s", "key": "password" if verb == "SetPassword" else "keys"}
    return world.operation(verb, user=user, secretRef=ref, **spec)


def passwords(world: SimWorld) -> list[str]:
    return [p for m in world.datacenter.machines.values() for p in m.passwords.values()]


async def test_it_waits_for_the_secret_and_supersedes_nothing() -> None:
    world = await deaf_world()
    stop = world.operation("Stop")
    operation = ask(world)
    await world.run(20)
    assert said(world, operation)[0] == "Running"
    assert said(world, stop)[0] == "Running"
    assert "Secret web/s is not there" in str(world.raw(VirtualMachineOperation, NS, operation)["status"]["message"])
    world.delete(VirtualMachineOperation, NS, stop)
    world.api.put_secret(NS, "s", {"password": SECRET})
    await world.until(lambda: said(world, operation)[0] == "Succeeded", "set")
    assert passwords(world) == [SECRET.decode()]
    assert SECRET.decode() not in json.dumps(list(world.api.raw_list(VirtualMachineOperation)))
    await world.close()


async def test_keys_are_added_once_whatever_dies() -> None:
    world, operator = await running_world()
    key = "ssh-ed25519 AAAA a@example"
    world.api.put_secret(NS, "s", {"keys": key.encode()})
    operator.tracer.pause_when = lambda call: call.verb == "change_ssh_keys"
    operation = ask(world, "AddSshKeys")
    await world.until(lambda: operator.tracer.paused, "stopped there")
    await operator.crash()
    world.forget(operator)
    start_all(world)
    await world.until(lambda: said(world, operation)[0] == "Succeeded", "added by the next")
    (machine,) = (m for m in world.datacenter.machines.values() if m.ssh_keys)
    assert machine.ssh_keys == {(DOMAIN, "root"): (key,)}
    removed = ask(world, "RemoveSshKeys")
    await world.until(lambda: said(world, removed)[0] == "Succeeded", "removed")
    assert machine.ssh_keys == {(DOMAIN, "root"): ()}
    await world.close()


async def test_refusals_and_deadlines() -> None:
    world, _ = await running_world()
    world.api.put_secret(NS, "s", {"password": SECRET})
    nobody = ask(world, user="nobody")
    await world.until(lambda: said(world, nobody) == ("Failed", "GuestRefused"), "no such user")
    other = world.operation("SetPassword", user="root", secretRef={"name": "s", "key": "other"})
    await world.until(lambda: said(world, other) == ("Failed", "InvalidSecret"), "no such key")
    world.datacenter.machines[world.runs_on()[0]].agent = False
    late = ask(world, deadlineSeconds=20)
    await world.until(lambda: said(world, late) == ("Failed", "DeadlineExceeded"), "no agent")
    stop = world.operation("Stop")
    await world.until(lambda: said(world, stop)[0] == "Succeeded", "stopped")
    off = ask(world)
    await world.until(lambda: said(world, off) == ("Failed", "GuestRefused"), "does not run")
    assert passwords(world) == []
    await world.close()
