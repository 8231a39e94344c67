"""Quantities as Kubernetes writes them, and sizes in the units our names carry."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

MIB: Final = 1024**2
GIB: Final = 1024**3

_SUFFIX: Final[dict[str, Decimal]] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "Ki": Decimal(1024),
    "Mi": Decimal(1024) ** 2,
    "Gi": Decimal(1024) ** 3,
    "Ti": Decimal(1024) ** 4,
    "Pi": Decimal(1024) ** 5,
}
_QUANTITY: Final = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")


def parse_quantity(text: str | int) -> Decimal:
    """Value of a Kubernetes quantity (resource.Quantity without exponents and signs).

    Raises ValueError naming the text when it is not one.
    """
    match = _QUANTITY.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write for example 512Mi, 4Gi or 10")
    try:
        return Decimal(match.group(1)) * _SUFFIX[match.group(2) or ""]
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a quantity: {error}") from None


def parse_bytes(text: str | int) -> int:
    """Bytes of a quantity, rounded up to a whole byte."""
    value = parse_quantity(text)
    return int(value) if value == int(value) else int(value) + 1


def parse_mib(text: str | int) -> int:
    """Mebibytes of a quantity, rounded up (a VM never gets less than it was promised)."""
    return -(-parse_bytes(text) // MIB)


def format_mib(mib: int) -> str:
    """The shortest exact quantity: 1024 -> '1Gi', 1536 -> '1536Mi'."""
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"
