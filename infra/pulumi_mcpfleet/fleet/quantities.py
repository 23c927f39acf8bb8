"""Amounts of CPU, memory and disk that Cloud Run accepts, and which of them can be combined."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator

from pulumi_mcpfleet.fleet.base import PARENT, Mistake
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, pattern

# Cloud Run, "CPU limits": the minimum of memory by the number of CPUs, in MiB.
_MEMORY_FLOOR: Final = {4: 2048, 6: 4096, 8: 4096}
# Cloud Run, "Memory limits": the minimum of CPUs above an amount of memory (MiB), and the maximum of memory below a
# number of CPUs.
_CPU_FLOOR: Final = ((24_576, 8), (16_384, 6), (8_192, 4), (4_096, 2))
_MEMORY_CEILING: Final = ((0.5, 512), (1.0, 1024))

_MAX_CPUS: Final = 8
_MAX_MEMORY: Final = 32 * 1024  # MiB

# Cloud Run, "GPU support for services": the minimum of CPUs and of memory (MiB) for each GPU.
GPUS: Final = {"nvidia-l4": (4, 16 * 1024), "nvidia-rtx-pro-6000": (20, 80 * 1024)}
LARGE_GPU: Final = "nvidia-rtx-pro-6000"
"""The GPU with which an instance can have more than 8 CPUs and 32 GiB; Google documents no maximum for it."""

_MEMORY_UNITS: Final = {"k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_MEMORY: Final = r"[0-9]{1,9}(k|M|G|Ki|Mi|Gi)"


def cpus(value: str) -> float:
    """Convert a quantity of CPUs, such as "1" or "500m", to a number."""
    return float(value[:-1]) / 1000 if value.endswith("m") else float(value)


def mebibytes(value: str) -> float:
    """Convert a quantity of memory, such as "512Mi" or "2G", to MiB."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", value).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return float(number) * _MEMORY_UNITS[unit] / 2**20


def memory_mistake(cpu: str, memory: str) -> str | None:
    """The message if Cloud Run does not accept *memory* with *cpu*; None if it does."""
    count, size = cpus(cpu), mebibytes(memory)
    floor = _MEMORY_FLOOR.get(int(count), 0) if count >= 1 else 0
    if size < floor:
        return f"{memory} is too little for {count:g} CPUs; Cloud Run wants {floor}Mi or more"
    ceiling = next((maximum for cpu_limit, maximum in _MEMORY_CEILING if count < cpu_limit), None)
    if ceiling is not None and size > ceiling:
        return f"{memory} is too much for {count:g} CPU; take {ceiling}Mi or less, or more cpu"
    minimum = next((cpu_floor for memory_limit, cpu_floor in _CPU_FLOOR if size > memory_limit), 0)
    if count < minimum:
        return f'{memory} is too much for {count:g} CPU; take less memory, or cpu: "{minimum}"'
    return None


def gpu_mistakes(gpu: str | None, cpu: str | None, memory: str | None) -> Iterator[Mistake]:
    """Find amounts of a container that Cloud Run does not accept with *gpu*.

    Args:
        gpu: The GPU; None for a container without one.
        cpu: The CPUs; None if this key has a mistake of its own.
        memory: The memory; None if this key has a mistake of its own.
    """
    least, size = GPUS.get(gpu or "", (0, 0))
    if cpu is not None and cpus(cpu) < least:
        yield (), f"{gpu} needs at least {least} CPUs and cpu is {cpu}; raise it"
    if memory is not None and mebibytes(memory) < size:
        yield (), f"{gpu} needs at least {size // 1024}Gi and memory is {memory}; raise it"
    if gpu == LARGE_GPU:
        return
    if cpu is not None and cpus(cpu) > _MAX_CPUS:
        yield (PARENT, "cpu"), f"{cpu} CPUs need gpu: {LARGE_GPU}; write {_MAX_CPUS} or less"
    if memory is not None and mebibytes(memory) > _MAX_MEMORY:
        yield (PARENT, "memory"), f"{memory} needs gpu: {LARGE_GPU}; write 32Gi or less"


def _number_to_text(value: Any) -> Any:
    # YAML reads `cpu: 2` as a number; Cloud Run wants the text "2".
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _check_own_cpu(value: str) -> str:
    minimum, _ = GPUS[LARGE_GPU]
    return value if re.fullmatch(r"[0-9]{2}", value) and int(value) >= minimum else _check_cpu(value)


def _check_cpu(value: str) -> str:
    match = re.fullmatch(r"[0-9]{1,4}m|[0-9]{1,2}(\.[0-9]{1,3})?", value)
    # Cloud Run: 1, 2, 4, 6 or 8 CPUs, or from 0.08 to 1 in steps of 0.01.
    if not match or not (0.08 <= cpus(value) < 1 or cpus(value) in {1, 2, 4, 6, 8}):
        raise ValueError(
            f'{value[:50]!r} is not an amount of CPU that Cloud Run has; write "1", "2", "4", "6", "8" or "0.08" to "1"'
        )
    return value


Cpu = Annotated[
    str,
    BeforeValidator(_number_to_text),
    AfterValidator(_check_cpu),
    FieldDoc(
        "CPUs",
        "CPUs",
        '`"1"`, `"2"`, `"4"`, `"6"`, `"8"`, or `"0.08"` to `"1"` (`"500m"`)',
        {"type": ["string", "number"]},
    ),
]


OwnCpu = Annotated[
    str,
    BeforeValidator(_number_to_text),
    AfterValidator(_check_own_cpu),
    FieldDoc(
        "CPUs",
        "CPUs",
        f'`"1"`, `"2"`, `"4"`, `"6"`, `"8"`, or `"0.08"` to `"1"` (`"500m"`); with `gpu: {LARGE_GPU}` `"20"` or more',
        {"type": ["string", "number"]},
    ),
]
"""For the main container of a service, which can have a GPU."""


def _check_own_memory(value: str) -> str:
    _, minimum = GPUS[LARGE_GPU]
    return value if re.fullmatch(_MEMORY, value) and mebibytes(value) >= minimum else _check_memory(value)


def _check_memory(value: str) -> str:
    if not re.fullmatch(_MEMORY, value):
        raise ValueError(f'{value[:50]!r} is not an amount of memory; write it as "512Mi" or "2Gi"')
    if not 128 <= mebibytes(value) <= 32 * 1024:
        raise ValueError(f'{value} is out of range; Cloud Run has 128Mi to 32Gi, write for instance "512Mi"')
    return value


def _require_unit(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f'{value} has no unit; write it as "{value:g}Mi"')  # noqa: TRY004 - a sentence for the user
    return value


Memory = Annotated[
    str,
    BeforeValidator(_require_unit),
    AfterValidator(_check_memory),
    FieldDoc("memory", "memories", "`128Mi` to `32Gi`", pattern(_MEMORY)),
]


OwnMemory = Annotated[
    str,
    BeforeValidator(_require_unit),
    AfterValidator(_check_own_memory),
    FieldDoc("memory", "memories", f"`128Mi` to `32Gi`; with `gpu: {LARGE_GPU}` `80Gi` or more", pattern(_MEMORY)),
]
"""For the main container of a service, which can have a GPU."""


def _check_disk(value: str) -> str:
    if not re.fullmatch(_MEMORY, value):
        raise ValueError(f'{value[:50]!r} is not a size; write it as "10Gi"')
    if mebibytes(value) < _MIN_DISK:
        raise ValueError(f"{value} is too small; Cloud Run's least disk is 10Gi, or write memory: {value[:50]}")
    return value


# Cloud Run, "Configure an ephemeral disk": 10 GB for each instance without another quota.
_MIN_DISK: Final = 10 * 1024  # MiB
DiskSize = Annotated[
    str,
    BeforeValidator(_require_unit),
    AfterValidator(_check_disk),
    FieldDoc("size", "sizes", "`10Gi` or more", pattern(_MEMORY)),
]


def _check_size(value: str) -> str:
    if not re.fullmatch(_MEMORY, value):
        raise ValueError(f'{value[:50]!r} is not a size; write it as "64Mi" or "1Gi"')
    if not 1 <= mebibytes(value) <= 32 * 1024:
        raise ValueError(f'{value} is out of range; write a size from 1Mi to 32Gi, for instance "64Mi"')
    return value


Size = Annotated[
    str,
    BeforeValidator(_require_unit),
    AfterValidator(_check_size),
    FieldDoc("size", "sizes", "`1Mi` to `32Gi`", pattern(_MEMORY)),
]
