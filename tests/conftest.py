"""Fixtures for every tier, and one rule for all property tests: none of them asserts how long an example took."""

from hypothesis import settings

pytest_plugins = ["tests.labfixtures"]

settings.register_profile("lq", deadline=None)
settings.load_profile("lq")
