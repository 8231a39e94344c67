"""Differences of the RFC 3339 times that statuses carry. Pure; what must not jump with a clock is counted by Clock.mono_s."""

from __future__ import annotations

from datetime import UTC, datetime


def age_s(stamp: str | None, now: str) -> float:
    """Seconds since that time; 0 for none."""
    if not stamp:
        return 0.0
    return (datetime.fromisoformat(now) - datetime.fromisoformat(stamp)).total_seconds()


def seconds_until(stamp: str, now: str) -> float | None:
    """Seconds from now to that time; None for ''."""
    return -age_s(stamp, now) if stamp else None


def after_seconds(now: str, seconds: float) -> str:
    """The time that many seconds later."""
    moment = datetime.fromisoformat(now).timestamp() + seconds
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
