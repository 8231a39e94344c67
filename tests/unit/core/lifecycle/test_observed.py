"""Every row of the table that says something of a running guest has a test on real parts that sees it."""

import re
from pathlib import Path

from tests.e2e.hot_matrix import OBSERVED

from lq_operator.core.lifecycle.fields import FIELDS, Effect

TESTS = Path(__file__).parents[3]


def test_every_row_is_observed_by_a_test_with_a_name() -> None:
    assert set(OBSERVED) == {path for path, row in FIELDS.items() if row.effect is not Effect.NOTHING}


def test_the_tests_are_there() -> None:
    for where in sorted(set(OBSERVED.values())):
        file, _, name = where.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), where
