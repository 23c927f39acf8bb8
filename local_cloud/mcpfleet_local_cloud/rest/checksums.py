"""CRC-32C (Castagnoli, RFC 3720 appendix B.4): the checksum of Secret Manager's payloads and of stored objects."""

from typing import Final

_POLYNOMIAL: Final = 0x82F63B78


def _table() -> tuple[int, ...]:
    entries: list[int] = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ _POLYNOMIAL if value & 1 else value >> 1
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _table()


def crc32c(content: bytes, before: int = 0) -> int:
    """The checksum of *content*; *before* is that of what preceded it."""
    value = before ^ 0xFFFFFFFF
    for byte in content:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
