"""Emptying a host: pure."""
