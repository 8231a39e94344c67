"""Fixtures for every tier."""

pytest_plugins = ["labfixtures"]
