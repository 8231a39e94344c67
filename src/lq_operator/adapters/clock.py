"""The real clock and the real randomness."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime


class SystemClock:
    """ports.Clock over the operating system."""

    def mono_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def now_rfc3339(self) -> str:
        """UTC, to the millisecond."""
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def token(self) -> str:
        """128 random bits."""
        return secrets.token_hex(16)

    async def sleep(self, seconds: float) -> None:
        """asyncio's."""
        await asyncio.sleep(seconds)
