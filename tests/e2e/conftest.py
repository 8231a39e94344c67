"""Fixtures of the end-to-end tier besides the lab."""

from tests.e2e.apiserver import api_server
from tests.e2e.datacenter import dc

__all__ = ["api_server", "dc"]
