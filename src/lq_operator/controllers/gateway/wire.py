"""What the gateway and its clients have agreed on: headers, protocols of WebSockets, the code of a closing. Words only."""

from __future__ import annotations

from typing import Final

AUTHORIZATION: Final = "Lq-Authorization"
"""As Authorization, and before it: the API server's proxy takes that one away."""
MODE: Final = "Lq-Mode"
"""read, write, share or take: a header, because the API server's proxy drops the query of a WebSocket (1.36)."""
REASON: Final = "Lq-Reason"
"""Why something was refused, for clients that cannot read the body of a refused WebSocket."""
CONSOLE_PROTOCOL: Final = "console.limiquantix.io"
VNC_PROTOCOL: Final = "binary"
GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008
"""The right to the session was taken away."""
