"""What the guest agent says, asked with short timeouts. A guest may lie: texts are bounded and cleaned."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import libvirt
import libvirt_qemu

from lq_operator.adapters.libvirt.errors import code_of, text_of
from lq_operator.adapters.libvirt.xml.build import parse
from lq_operator.adapters.libvirt.xml.devices import AGENT_CHANNEL
from lq_operator.core.model import AgentState, GuestFacts
from lq_operator.core.result import Conflict, Rejected, Transient

AGENT_TIMEOUT_S = 3
_TEXT_LIMIT = 253  # the longest host name there is
_ADDRESS_LIMIT = 64

_ACCOUNT_HINT = " (is there such a user? does its agent know the command?)"
REFUSED = (
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_INTERNAL_ERROR,  # "unable to execute QEMU agent command": this agent lacks the command
)


def observe_guest(conn: Any, domain_name: str) -> GuestFacts:
    """Raises (Transient after translation) when the agent does not answer at all."""
    dom = conn.lookupByName(domain_name)
    try:
        dom.agentSetResponseTimeout(AGENT_TIMEOUT_S, 0)
        version = _version(dom)  # the first question: an agent that is away ends it here, after one timeout
    except libvirt.libvirtError as problem:
        if code_of(problem) == libvirt.VIR_ERR_OPERATION_INVALID:
            raise Transient(f"{domain_name}: the guest does not run, so its agent cannot answer") from problem
        raise
    info = _ask(lambda: dom.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_OS | libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME, 0))
    interfaces = _ask(lambda: dom.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT, 0))
    if not version and not info and not interfaces:
        raise Transient(f"{domain_name}: no guest agent answers; install qemu-guest-agent in the guest")
    return GuestFacts(
        hostname=_clean(info.get("hostname")),
        os_name=_clean(info.get("os.name") or info.get("os.id")),
        os_version=_clean(info.get("os.version-id") or info.get("os.version")),
        kernel=_clean(info.get("os.kernel-release")),
        agent_version=version,
        addresses=addresses_of(interfaces),
    )


def observe_agent(conn: Any, domain_name: str) -> AgentState:
    """See ports.Host.agent_state. Judged by the channel's state and the time that passed, never by libvirt's words:
    they come in the host's language, and one code stands for "timed out", "not connected" and "broken"."""
    dom = _running(conn, domain_name)
    if not _channel_open(dom):
        return AgentState.CLOSED
    dom.agentSetResponseTimeout(AGENT_TIMEOUT_S, 0)
    began_s = time.monotonic()
    try:
        libvirt_qemu.qemuAgentCommand(dom, json.dumps({"execute": "guest-ping"}), AGENT_TIMEOUT_S, 0)
        return AgentState.ANSWERS
    except libvirt.libvirtError as problem:
        waited_s = time.monotonic() - began_s
        if code_of(problem) in REFUSED:
            return AgentState.ANSWERS  # an agent that forbids the ping has heard it
        if code_of(problem) != libvirt.VIR_ERR_AGENT_UNRESPONSIVE or waited_s < AGENT_TIMEOUT_S * 0.9:
            raise
    still = dom.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING and _channel_open(dom)
    return AgentState.SILENT if still else AgentState.CLOSED


def _running(conn: Any, domain_name: str) -> Any:
    dom = conn.lookupByName(domain_name)
    if dom.state(0)[0] != libvirt.VIR_DOMAIN_RUNNING:
        raise Conflict(f"{domain_name} does not run, so its agent cannot answer")
    return dom


def _channel_open(dom: Any) -> bool:
    """The guest has the agent's port open, as QEMU tells it to libvirt."""
    target = parse(dom.XMLDesc(0), "domain").find(f"devices/channel/target[@name='{AGENT_CHANNEL}']")
    if target is None:
        raise Rejected(f"{dom.name()} has no channel for an agent: set spec.guestAgent and power cycle it")
    return bool(target.get("state") == "connected")


def set_password(conn: Any, domain_name: str, user: str, password: str) -> None:
    """See ports.Host.set_password."""
    dom = with_agent(conn, domain_name)
    with told(f"{domain_name}: the password of {user}", hint=_ACCOUNT_HINT):
        dom.setUserPassword(user, password, 0)


def change_ssh_keys(conn: Any, domain_name: str, user: str, keys: Sequence[str], *, add: bool) -> None:
    """See ports.Host.change_ssh_keys."""
    dom = with_agent(conn, domain_name)
    flag = (
        libvirt.VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND if add else libvirt.VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_REMOVE
    )
    with told(f"{domain_name}: ssh keys of {user}", hint=_ACCOUNT_HINT):
        dom.authorizedSSHKeysSet(user, list(keys), flag)


def with_agent(conn: Any, domain_name: str) -> Any:
    """The running domain, with its channel open: closed, libvirt would only say so in the host's language."""
    dom = _running(conn, domain_name)
    if not _channel_open(dom):
        raise Transient(
            f"no agent is connected in {domain_name}: it boots, or install and start qemu-guest-agent there"
        )
    dom.agentSetResponseTimeout(AGENT_TIMEOUT_S, 0)
    return dom


@contextmanager
def told(what: str, *, hint: str = "") -> Iterator[None]:
    """What the agent refuses is refused for good: only a person changes the guest. An agent that is silent is asked again."""
    try:
        yield
    except libvirt.libvirtError as problem:
        if code_of(problem) == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
            raise Transient(f"{what}: the agent does not answer") from problem
        if code_of(problem) in REFUSED:
            raise Rejected(f"{what}: the guest refuses: {text_of(problem)[:300]}{hint}") from problem
        raise


def _ask(question: Any) -> dict[str, Any]:
    """{} where the agent is there but does not know; silence is raised."""
    try:
        return dict(question() or {})
    except libvirt.libvirtError as problem:
        if code_of(problem) in REFUSED:
            return {}
        raise


def _version(dom: Any) -> str:
    command = json.dumps({"execute": "guest-info"})
    try:
        answer = json.loads(libvirt_qemu.qemuAgentCommand(dom, command, AGENT_TIMEOUT_S, 0))
        return _clean(answer["return"]["version"])
    except libvirt.libvirtError as problem:
        if code_of(problem) in REFUSED:
            return ""
        raise
    except (ValueError, KeyError, TypeError):
        return ""


def _clean(value: Any) -> str:
    kept = "".join(character for character in str(value or "") if character.isprintable())
    return kept.strip()[:_TEXT_LIMIT]


def addresses_of(interfaces: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """(MAC, address/prefix) of every interface, loopback, link-local and what does not parse left out."""
    found: set[tuple[str, str]] = set()
    for interface in interfaces.values():
        mac = _clean(interface.get("hwaddr")).lower()
        for entry in interface.get("addrs") or ():
            try:
                address = ipaddress.ip_interface(f"{entry['addr']}/{entry['prefix']}")
            except (ValueError, KeyError, TypeError):
                continue
            if mac and not (address.is_loopback or address.is_link_local):
                found.add((mac, str(address)))
    return tuple(sorted(found)[:_ADDRESS_LIMIT])
