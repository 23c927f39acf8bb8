"""Amounts as Cloud Run writes them: CPU (`1`, `1000m`, `0.5`), memory (`512Mi`, `1G`), durations (`300s`)."""

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


def quantity(text: str) -> float | None:
    """The number that a Kubernetes quantity stands for (CPUs, bytes); None where it is none."""
    found = _QUANTITY.fullmatch(text)
    return float(Decimal(found[1]) * _FACTORS[found[2]]) if found else None


def seconds(duration: str) -> float:
    """A protobuf duration (`1.5s`) in seconds."""
    return float(duration.removesuffix("s"))


def whole_seconds(duration: str) -> int:
    """A protobuf duration, rounded up to a whole second."""
    return math.ceil(seconds(duration))
