"""Benchmarks of the whole operator on a lab of its own."""
