# SPDX-License-Identifier: Apache-2.0
"""PNG files written from the standard alone, so that every sample and chunk is known."""

import struct
import zlib

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
# Of Adam7's passes: first row, first column, and the steps of both.
ADAM7 = [
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
]
# Colors whose brightness has nothing to do with the index.
COLORS = [(37 * value + 11) % 256 for value in range(768)]


def chunk(name, content=b""):
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def orientation_chunk(orientation):
    """EXIF data, big-endian, with one entry: tag 274, a short."""
    return chunk(
        b"eXIf",
        b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0),
    )


def png(rows, bits=8, kind=GREY, *, before=b"", after=b"", interlaced=False, colors=COLORS):
    """Encode samples.

    Args:
        rows: H rows of W samples, of several channels one after another.
        bits: of a sample.
        kind: GREY, ...
        before: chunks in front of the pixels.
        after: chunks behind them.
        interlaced: whether the pixels come in Adam7's passes.
        colors: of a palette: red, green, blue of the first, of the second, ...
    """
    width = len(rows[0]) // CHANNELS[kind]
    passes = [(0, 0, 1, 1)] if not interlaced else ADAM7
    content = b""
    for row, column, row_step, column_step in passes:
        for line in rows[row::row_step]:
            if column < width:
                assert not interlaced or CHANNELS[kind] == 1
                content += scanline(line[column::column_step], bits)
    head = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(colors[: 3 * 2**bits])) if kind == PALETTE else b""
    pixels = chunk(b"IDAT", zlib.compress(content))
    parts = [chunk(b"IHDR", head), palette, before, pixels, after, chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def scanline(samples, bits):
    """Filter 0, then the samples without gaps, the first in the highest bits."""
    text = "".join(format(sample, f"0{bits}b") for sample in samples)
    text += "0" * (-len(text) % 8)
    return b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")


def huge_png(width, height):
    """A file of a few bytes that promises many pixels."""
    content = png([[0]])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0))
    return content[:8] + head + content[8 + len(head) :]


def name_of(value):
    """The name of a test's parameter: files would be spelled out."""
    return f"{len(value)}bytes" if isinstance(value, bytes) else None
