"""Differences of RFC 3339 times."""

from __future__ import annotations

from lq_operator.core.times import after_seconds, age_s, seconds_until

NOW = "2030-01-01T00:01:00Z"


def test_an_age_and_a_deadline_are_the_same_difference() -> None:
    assert age_s("2030-01-01T00:00:30Z", NOW) == 30
    assert seconds_until("2030-01-01T00:01:30.500Z", NOW) == 30.5
    assert seconds_until(after_seconds(NOW, -12.25), NOW) == -12.25


def test_without_a_time_nothing_is_old_and_nothing_is_due() -> None:
    assert (age_s("", NOW), age_s(None, NOW), seconds_until("", NOW)) == (0.0, 0.0, None)
