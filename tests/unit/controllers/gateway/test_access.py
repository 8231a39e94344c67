"""The gateway's door: tokens, refusals, and that nothing is let in on a guess."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import pytest

from lq_operator.controllers.gateway.access import READ, WRITE, Door, Pass, Refusal, token_of
from lq_operator.core.result import Transient
from lq_operator.ports import Caller


@dataclass
class FakeDoorkeeper:
    """`rights`: (user, verb, subresource, namespace). `down`: the API server does not answer."""

    tokens: dict[str, str] = field(default_factory=lambda: {"good": "ann"})
    rights: set[tuple[str, str, str, str]] = field(default_factory=set)
    down: bool = False

    async def authenticate(self, token: str) -> Caller | None:
        if self.down:
            raise Transient("the API server is away")
        return Caller(self.tokens[token]) if token in self.tokens else None

    async def allowed(self, caller: Caller, verb: str, subresource: str, namespace: str, name: str) -> tuple[bool, str]:
        if self.down:
            raise Transient("the API server is away")
        may = (caller.name, verb, subresource, namespace) in self.rights
        return may, "" if may else f"needs {verb}"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def knock(keeper: FakeDoorkeeper, headers: dict[str, str], *, write: bool = True, kind: str = "console") -> Pass:
    return await Door(keeper).let_in(headers, kind, "ns", "web", wants_to_write=write, peer="10.0.0.1")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}, bearer("bad")])
async def test_without_a_good_token_nobody_gets_in(headers: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        await knock(FakeDoorkeeper(rights={("ann", READ, "console", "ns")}), headers)
    assert refused.value.status == 401


async def test_who_may_read_only_is_let_in_to_read() -> None:
    keeper = FakeDoorkeeper(rights={("ann", READ, "console", "ns")})
    assert not (await knock(keeper, bearer("good"))).writes
    keeper.rights.add(("ann", WRITE, "console", "ns"))
    assert (await knock(keeper, bearer("good"))).writes
    assert not (await knock(keeper, bearer("good"), write=False)).writes


@pytest.mark.parametrize(
    "right", [("ann", READ, "vnc", "ns"), ("ann", READ, "console", "other"), ("bob", READ, "console", "ns")]
)
async def test_a_right_to_something_else_is_none(right: tuple[str, str, str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        await knock(FakeDoorkeeper(rights={right}), bearer("good"))
    assert (refused.value.status, "ann may not see console of vm/web" in refused.value.message) == (403, True)


async def test_an_api_server_that_is_away_lets_nobody_in_and_ends_nothing() -> None:
    keeper = FakeDoorkeeper(rights={("ann", READ, "console", "ns")})
    ticket = await knock(keeper, bearer("good"), write=False)
    keeper.down = True
    with pytest.raises(Refusal) as refused:
        await knock(keeper, bearer("good"))
    assert refused.value.status == 503
    assert await Door(keeper).still_open(ticket, "console", "ns", "web") == ""


async def test_a_session_ends_with_the_right_the_token_or_the_name_behind_it() -> None:
    keeper = FakeDoorkeeper(rights={("ann", READ, "console", "ns"), ("ann", WRITE, "console", "ns")})
    door = Door(keeper)
    ticket = await knock(keeper, bearer("good"))
    assert await door.still_open(ticket, "console", "ns", "web") == ""
    keeper.rights.discard(("ann", WRITE, "console", "ns"))
    assert "taken" in await door.still_open(ticket, "console", "ns", "web")
    keeper.tokens["good"] = "bob"
    assert "token" in await door.still_open(ticket, "console", "ns", "web")
    keeper.tokens.clear()
    assert "token" in await door.still_open(ticket, "console", "ns", "web")


def test_tokens_come_in_three_ways_and_ours_wins() -> None:
    assert token_of({"Authorization": "bearer abc"}) == "abc"
    assert token_of({"Lq-Authorization": "Bearer ours", "Authorization": "Bearer theirs"}) == "ours"
    encoded = base64.urlsafe_b64encode(b"tok-1").decode().rstrip("=")
    assert token_of({"Sec-WebSocket-Protocol": f"x, base64url.bearer.authorization.k8s.io.{encoded}"}) == "tok-1"
    assert token_of({"Sec-WebSocket-Protocol": "base64url.bearer.authorization.k8s.io.\xff"}) == ""


def test_a_pass_does_not_print_its_token() -> None:
    assert "secret-token" not in repr(Pass(Caller("ann"), "secret-token", True))
