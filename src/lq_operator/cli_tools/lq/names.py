"""Names as people type them: vm/web, hvn/h1, plain ones; and what they probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lq_operator.core.result import Rejected

VM_WORDS = ("vm", "vms", "virtualmachine", "virtualmachines", "virtualmachine.limiquantix.io")
NODE_WORDS = ("node", "nodes", "hvn", "hypervisornode", "hypervisornodes", "host", "hypervisornode.limiquantix.io")


def vm_name(typed: str) -> str:
    """'vm/web' or 'web' -> 'web'."""
    return _name(typed, VM_WORDS, "vm")


def node_name(typed: str) -> str:
    """'hvn/h1' or 'h1' -> 'h1'."""
    return _name(typed, NODE_WORDS, "hvn")


def _name(typed: str, words: tuple[str, ...], short: str) -> str:
    kind, slash, name = typed.rpartition("/")
    if slash and kind.lower() not in words:
        raise Rejected(f"{typed}: this is done to a {short} only; write {short}/{name or 'NAME'}")
    if not name:
        raise Rejected(f"{typed!r} names nothing; write {short}/NAME")
    return name


def did_you_mean(wrong: str, there_are: Iterable[str]) -> str:
    """', did you mean web?' or what there is, '' where there is nothing."""
    known = sorted(there_are)
    close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if not known:
        return ""
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return f"; there are {', '.join(known[:8])}{more}"
