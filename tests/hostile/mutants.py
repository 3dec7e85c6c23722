"""Sound files that lie: real clips in many containers, and what becomes of them under mutation.

A mutant is drawn from a `random.Random`, so that a number names it for ever and hypothesis can
shrink it. Half of the mutations know the containers: they lie in size fields, repeat, nest and
reorder chunks and pages, and mend the checksums of OGG pages, without which libogg would drop every
mutant unread.
"""

from __future__ import annotations

import functools
import io
import random
import struct
from collections.abc import Callable, Mapping

import numpy as np
import soundfile
from numpy.typing import NDArray

CONTAINERS = (
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "MS_ADPCM"),
    ("WAVEX", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AIFF", "PCM_16"),
    ("AIFF", "FLOAT"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("AU", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "PCM_16"),
)
EXTREMES = (0, 1, 2, 3, 7, 8, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF)
EXTREMES += (0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFFE, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
HEADER = 160
"""Bytes at the start that hold most of what a parser believes."""
LARGEST = 1 << 20
"""A mutant that grew is cut here, in bytes."""

Mutation = Callable[[bytes, random.Random], bytes]


def encoded(
    samples: NDArray[np.float32], rate: int, containers: tuple[tuple[str, str], ...] = CONTAINERS
) -> dict[str, bytes]:
    """Return one clip (T,) or (T, channels) as the files of many containers, by name."""
    files = {}
    for container, subtype in containers:
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=container, subtype=subtype)
        files[f"{container.lower()}-{subtype.lower()}"] = file.getvalue()
    return files


def mutant(seeds: Mapping[str, bytes], draw: random.Random) -> tuple[str, bytes]:
    """Return the name of a seed and what one to four mutations made of it."""
    name = draw.choice(sorted(seeds))
    body = seeds[name]
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        mutation = draw.choice(MUTATIONS)
        if mutation is splice:
            body = splice(body, draw, seeds[draw.choice(sorted(seeds))])
        else:
            body = mutation(body, draw)
    if body.startswith(b"OggS") and draw.random() < 0.8:
        body = mended(body)
    return name, body[:LARGEST]


def flip_bits(body: bytes, draw: random.Random) -> bytes:
    changed = bytearray(body)
    reach = len(changed) if draw.random() < 0.5 else min(HEADER, len(changed))
    for _ in range(draw.choice((1, 2, 8, 64)) if reach else 0):
        changed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def lie_in_header(body: bytes, draw: random.Random) -> bytes:
    """Write an extreme number of 1, 2, 4 or 8 bytes over some field at the start."""
    width, code = draw.choice(((1, "B"), (2, "H"), (4, "I"), (4, "I"), (8, "Q")))
    if len(body) < width:
        return body
    at = draw.randrange(min(HEADER, len(body) - width + 1))
    value = draw.choice(EXTREMES) & ((1 << 8 * width) - 1)
    return body[:at] + struct.pack(draw.choice("<>") + code, value) + body[at + width :]


def truncate(body: bytes, draw: random.Random) -> bytes:
    reach = len(body) if draw.random() < 0.7 else min(HEADER, len(body))
    return body[: draw.randrange(reach + 1)]


def splice(body: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """Return the start of one file and the end of another."""
    return body[: draw.randrange(len(body) + 1)] + other[draw.randrange(len(other) + 1) :]


def repeat_stretch(body: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(body) + 1) for _ in range(2))
    return body[:start] + body[start:end] * draw.choice((2, 3, 50)) + body[end:]


def remove_stretch(body: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(body) + 1) for _ in range(2))
    return body[:start] + body[end:]


def insert_noise(body: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(body) + 1)
    return body[:at] + draw.randbytes(draw.choice((1, 4, 100, 5_000))) + body[at:]


def lie_in_chunk(body: bytes, draw: random.Random) -> bytes:
    """Give one chunk, of RIFF or of IFF, a size that it does not have."""
    spans = chunks(body)
    if not spans:
        return lie_in_header(body, draw)
    start, _ = draw.choice(spans)
    order = ">" if body[:4] in (b"FORM", b"caff") else "<"
    wide = body[:4] == b"caff"
    width, code = (8, "Q") if wide else (4, "I")
    value = draw.choice(EXTREMES) & ((1 << 8 * width) - 1)
    return body[: start + 4] + struct.pack(order + code, value) + body[start + 4 + width :]


def shuffle_chunks(body: bytes, draw: random.Random) -> bytes:
    """Repeat, drop, nest or reorder whole chunks or pages."""
    spans = chunks(body)
    if len(spans) < 2:
        return repeat_stretch(body, draw)
    parts = [body[start:end] for start, end in spans]
    match draw.randrange(4):
        case 0:
            parts.insert(draw.randrange(len(parts)), draw.choice(parts) * draw.choice((1, 2, 40)))
        case 1:
            parts.pop(draw.randrange(len(parts)))
        case 2:
            draw.shuffle(parts)
        case _:
            inner = b"".join(parts)
            parts = [b"LIST" + struct.pack("<I", len(inner) + 4) + b"INFO" + inner, *parts]
    return body[: spans[0][0]] + b"".join(parts)


def change_magic(body: bytes, draw: random.Random) -> bytes:
    """Give the file the first bytes of another container."""
    return draw.choice(MAGICS) + body[draw.choice((0, 4, 12)) :]


def put_tag_before(body: bytes, draw: random.Random) -> bytes:
    """Put an ID3 tag before the file, whose size may be a lie."""
    size = draw.choice((0, 10, 100, 0x0FFF_FFFF))
    told = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00" + bytes([draw.choice((0, 0x10, 0xFF))]) + told + bytes(10) + body


MAGICS = (
    b"RIFF\xff\xff\xff\xffWAVE",
    b"RIFX\0\0\0\0WAVE",
    b"RF64\xff\xff\xff\xffWAVE",
    b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb",
    b"FORM\0\0\0\0AIFC",
    b"FORM\0\0\0\x108SVXVHDR",
    b"fLaC",
    b"OggS\0\x02",
    b".snd\0\0\0\x18",
    b"caff\0\x01\0\0",
    b"\xff\xfb\x90\x64",
    b"\x64\xa3\x01\x00",
    b" paf\0\0\0\0",
    b"NIST_1A\n",
    b"Creative Voice File\x1a",
    b"Extended Instrument: ",
    b"MATLAB 5.0 MAT-file, ",
    b"2BIT",
    b"ALawSoundFile**\0",
    b"\xf0\x7e\x00\x01",
)
"""First bytes of what libsndfile guesses at, also of what a service must not decode."""
MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits,
    lie_in_header,
    lie_in_header,
    truncate,
    splice,
    repeat_stretch,
    remove_stretch,
    insert_noise,
    lie_in_chunk,
    lie_in_chunk,
    shuffle_chunks,
    change_magic,
    put_tag_before,
)


def chunks(body: bytes) -> list[tuple[int, int]]:
    """Return where the chunks of RIFF, AIFF or CAF, or the pages of OGG, begin and end."""
    if body.startswith(b"OggS"):
        starts = [at for at in range(len(body)) if body.startswith(b"OggS", at)]
        return list(zip(starts, [*starts[1:], len(body)], strict=True))
    shape = {b"RIFF": (12, "<I"), b"RIFX": (12, ">I"), b"FORM": (12, ">I"), b"caff": (8, ">Q")}
    if body[:4] not in shape:
        return []
    at, code = shape[body[:4]]
    width, spans = struct.calcsize(code), []
    while at + 4 + width <= len(body) and len(spans) < 64:
        (size,) = struct.unpack_from(code, body, at + 4)
        end = min(at + 4 + width + size + (size & 1 if width == 4 else 0), len(body))
        spans.append((at, end))
        at = end
    return spans


def mended(body: bytes) -> bytes:
    """Return an OGG file whose pages all have their right checksum (RFC 3533, section 6)."""
    pages = []
    for start, end in chunks(body):
        page = bytearray(body[start:end])
        if len(page) >= 27:
            page[22:26] = bytes(4)
            page[22:26] = struct.pack("<I", _checksum(bytes(page)))
        pages.append(bytes(page))
    return b"".join(pages)


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C1_1DB7 if value & 0x8000_0000 else value << 1) & 0xFFFF_FFFF
        table.append(value)
    return tuple(table)


def _checksum(page: bytes) -> int:
    table, value = _table(), 0
    for byte in page:
        value = (value << 8 & 0xFFFF_FFFF) ^ table[value >> 24 ^ byte]
    return value
