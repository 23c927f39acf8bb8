"""Parses amounts in Cloud Run's format: CPU (`1`, `1000m`, `0.5`), memory (`512Mi`, `1G`), durations (`300s`)."""

import math
import re
from decimal import Decimal
from typing import Final

MI: Final = 1024**2
GI: Final = 1024**3

_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?|\.\d{1,9})(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_FACTORS: Final = {
    None: Decimal(1),
    "m": Decimal("0.001"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "Ki": Decimal(1024),
    "Mi": Decimal(MI),
    "Gi": Decimal(GI),
    "Ti": Decimal(1024**4),
}


def parse_quantity(text: str) -> float | None:
    """Parse a Kubernetes quantity (CPUs, bytes); None if *text* is invalid."""
    match = _QUANTITY.fullmatch(text)
    return float(Decimal(match[1]) * _FACTORS[match[2]]) if match else None


def parse_seconds(duration: str) -> float:
    """Parse a protobuf duration (`1.5s`); return seconds."""
    return float(duration.removesuffix("s"))


def parse_whole_seconds(duration: str) -> int:
    """Parse a protobuf duration; return seconds, rounded up."""
    return math.ceil(parse_seconds(duration))
