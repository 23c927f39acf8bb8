"""Builds small PNG images and WAV sounds, so that the examples need no files."""

import struct
import zlib


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG image.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        rows: Three bytes (red, green, blue) per pixel, row by row.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # Each row starts with its filter, 0 for none.
    lines = b"".join(b"\0" + rows[start : start + width * 3] for start in range(0, len(rows), width * 3))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def wav(samples: bytes, rate: int = 8000) -> bytes:
    """A WAV sound with one channel of unsigned 8-bit samples, `rate` samples per second."""
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate, 1, 8)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(head) + len(data), b"WAVE") + head + data
