"""What the gateway or the proxy in front of it answers, as an error that says whether waiting helps."""

from __future__ import annotations

import pytest

from lq_operator.cli_tools.lq.gateway import refusal
from lq_operator.core.result import Rejected, Transient


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (403, "ann may not see console of vm/web", Rejected),
        (409, "vm/web does not run", Rejected),
        (503, "host h1 does not answer", Transient),
        (403, "", Rejected),
        (404, "", Transient),  # the Service is not there (yet)
        (500, "", Transient),  # the gateway is being started again
        (503, "", Transient),
        (400, "", Rejected),
    ],
)
def test_whether_waiting_helps(status: int, reason: str, kind: type[Exception]) -> None:
    error = refusal(status, reason)
    assert type(error) is kind
    assert reason in str(error)
