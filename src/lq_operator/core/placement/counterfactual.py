from __future__ import annotations


def cheapest(engine, request):  # type: ignore
    return ()
