"""Counts what lies in the frames of an MP3 (ISO 11172-3, 13818-3), which libsndfile may guess."""

from __future__ import annotations

import io
from typing import NamedTuple

BLOCK_BYTES = 1 << 20
LONGEST = 2_881
"""Bytes of the longest frame of layer III, padded."""
RATES = (44_100, 48_000, 32_000)
KILOBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KILOBITS_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Of MPEG 2 and 2.5, at half the rates and a quarter."""


class Frame(NamedTuple):
    """The header of a frame of MPEG layer III."""

    length: int
    """In bytes."""
    samples: int
    """Of each channel."""
    kind: tuple[int, bool]
    """Rate in Hz and whether it is mono: one sound has one kind."""
    count_at: int
    """Where a frame that counts the others says so, instead of sounding."""


def frame_of(head: bytes) -> Frame | None:
    """Return what the first four bytes of a frame of layer III say, None for anything else."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, bits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return None
    full = version == 3
    hertz = RATES[rate] >> (0 if full else 1 if version == 2 else 2)
    kilobits = (KILOBITS if full else KILOBITS_LOW)[bits]
    samples = 1152 if full else 576
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if full else (9 if mono else 17)
    checked = 0 if head[1] & 1 else 2
    length = samples * kilobits * 125 // hertz + (head[2] >> 1 & 1)
    return Frame(length, samples, (hertz, mono), 4 + checked + side)


def samples_of(file: io.BufferedIOBase, start: int, end: int) -> int | None:
    """Return how many samples lie in the frames of an MP3; None for several sounds in one."""
    at, count, kind = start, 0, None
    block, base = b"", start
    while at + 4 <= end:
        if at + LONGEST > base + len(block) < end:
            base = file.seek(at)
            block = file.read(BLOCK_BYTES)
        place = at - base
        frame = frame_of(block[place : place + 4])
        if frame is None:
            at = _next_frame(block, place + 1) + base
            continue
        told = place + frame.count_at
        counts = block[told : told + 4] in (b"Xing", b"Info")
        if kind not in (None, frame.kind) or (counts and kind is not None):
            return None
        kind = frame.kind
        count += 0 if counts else frame.samples
        at += frame.length
    return count


def _next_frame(block: bytes, place: int) -> int:
    """Return where the next frame begins that another one follows, at or behind a place."""
    while (place := block.find(b"\xff", place)) >= 0:
        frame = frame_of(block[place : place + 4])
        if frame is not None:
            behind = place + frame.length
            if frame_of(block[behind : behind + 4]) is not None:
                return place
        place += 1
    return len(block)
