"""Keeps standard output for the answer: libraries that print (the solver's banner) are sent to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def libraries_to_stderr() -> Iterator[None]:
    """File descriptor 1 is 2 inside: the banner of HiGHS is written below Python."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
