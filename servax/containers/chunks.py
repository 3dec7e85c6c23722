"""Containers of chunks: RIFF, RIFX, RF64, BW64, AIFF, CAF and W64."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from servax.containers.view import View, before_tag, bytes_at, id3_bytes, joined, search
from servax.errors import AudioError

TAIL_BYTES = 1 << 24
"""How far from the end of a file that was never closed other chunks are looked for."""
MOST_BEFORE = 10_000
"""How many chunks may stand before the samples: a body of millions is an attack on the reader."""
MOST_CHUNKS = 64
"""How many chunks are looked at behind samples."""
KNOWN = frozenset(
    b"LIST|id3 |ID3 |bext|cue |smpl|inst|fact|JUNK|junk|PAD |FLLR|iXML|aXML|axml|chna|_PMX|PEAK"
    b"|DISP|cart|levl|plst|afsp|umid|minf|elm1|regn|acid|strc|tlst|LGWV|NAME|AUTH|(c) |ANNO|COMT"
    b"|MARK|INST|MIDI|AESD|APPL|SAXL|CHAN|info|uuid|free|chan|pakt|kuki|mark|strg|peak|ovvw|midi"
    b"|data|fmt |COMM|FVER|SSND".split(b"|")
)
"""Names of chunks that stand beside samples."""
NAME = re.compile(b"|".join(re.escape(name) for name in sorted(KNOWN)))
ANY_NAME = re.compile(rb"[ -~]{4}")
HEADS = re.compile(
    rb"(?:RIF[FX]|RF64|BW64).{4}WAVE|FORM.{4}AIF[FC]|caff\0\x01|\.snd\0\0\0|riff\x2e\x91\xcf",
    re.DOTALL,
)
"""How a whole file of chunks, or of Sun's, begins."""


@dataclass(frozen=True)
class Grammar:
    """How a container writes its chunks."""

    order: str
    """``<`` or ``>``: the smallest or the largest byte of a number comes first."""
    first: int = 12
    """Where the first chunk begins."""
    name_bytes: int = 4
    size_bytes: int = 4
    whole: bool = False
    """Whether a size counts the name and itself too."""
    align: int = 2
    data: bytes = b"data"
    """Name of the chunk that holds the samples."""
    before: int = 0
    """Bytes of that chunk before its samples."""

    @property
    def number(self) -> str:
        """How `struct` writes a size."""
        return self.order + ("I" if self.size_bytes == 4 else "Q")

    @property
    def header(self) -> int:
        """Bytes of a name and a size."""
        return self.name_bytes + self.size_bytes


class Chunk(NamedTuple):
    """Where a chunk stands in a file."""

    name: bytes
    size_at: int
    """Where its size stands in the file."""
    at: int
    """Where its content begins."""
    size: int
    """Of its content; negative where its size counts less than its header."""


def grammar_of(head: bytes) -> Grammar | None:
    """Return how the chunks of a file are written that begins with `head`."""
    kind = head[8:12]
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and kind == b"WAVE":
        return Grammar("<")
    if head[:4] == b"RIFX" and kind == b"WAVE":
        return Grammar(">")
    if head[:4] == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return Grammar(">", data=b"SSND", before=8)
    if head[:4] == b"caff":
        return Grammar(">", first=8, size_bytes=8, align=1, before=4)
    if head.startswith(b"riff") and head[24:28] == b"wave":
        return Grammar("<", 40, 16, 8, whole=True, align=8)
    return None


def _chunks(file: io.BufferedIOBase, grammar: Grammar, at: int, end: int) -> Iterator[Chunk]:
    while at + grammar.header <= end:
        head = bytes_at(file, at, grammar.header)
        (size,) = struct.unpack(grammar.number, head[grammar.name_bytes :])
        content = at + grammar.header
        chunk = Chunk(
            head[: grammar.name_bytes],
            at + grammar.name_bytes,
            content,
            size - (grammar.header if grammar.whole else 0),
        )
        yield chunk
        at = content + max(0, chunk.size) + -chunk.size % grammar.align


def view_of_chunks(
    file: io.BufferedIOBase, name: str | Path, grammar: Grammar, start: int, end: int
) -> View:
    """Return a view whose chunk of samples has its true size."""
    wide: Chunk | None = None
    patches: list[tuple[int, bytes]] = []
    for chunk in islice(_chunks(file, grammar, start + grammar.first, end), MOST_BEFORE):
        if chunk.name == b"ds64":
            wide = chunk
        if chunk.name == b"LIST":  # what it holds may be called data, and libsndfile believes it
            patches.append((chunk.size_at - grammar.name_bytes, b"JUNK"))
        if chunk.name[:4] == grammar.data:
            break
    else:
        return View(file, start, end)  # libsndfile says what is wrong
    size, size_at, number = chunk.size, chunk.size_at, grammar.number
    if wide is not None and size in (0, 0xFFFF_FFFF):
        size_at, number = wide.at + 8, "<Q"
        (size,) = struct.unpack(number, bytes_at(file, size_at, 8).ljust(8, b"\0"))
    there = end - chunk.at
    behind, meant = chunk.at + size, size < streamed(number)
    if grammar.before < size and meant and size > there:
        reason = f"is cut off: {there} bytes of the {size} its header promises"
        raise AudioError(name, reason, cause="damaged")
    # A size that means "streamed" is one where the file ends there, or chunks go on.
    meant = meant or there - size < grammar.align or bytes_at(file, behind, 4) in KNOWN
    if grammar.before < size <= there and meant:
        if search(file, HEADS, behind, min(end, behind + TAIL_BYTES)) is not None:
            raise joined(name)
        # Of a W64 file libsndfile takes for sound whatever stands behind it.
        return View(file, start, behind if grammar.whole else end, tuple(patches))
    stop = _end_of_samples(file, grammar, chunk.at + grammar.before, end)
    if stop <= chunk.at + grammar.before:
        raise AudioError(name, "holds no samples", cause="no_samples")
    counted = stop - chunk.at + (grammar.header if grammar.whole else 0)
    if counted >> 8 * struct.calcsize(number):
        reason = "holds more than 4 GiB, which its header cannot say: write it as RF64, or in parts"
        raise AudioError(name, reason, cause="length_unknown")
    patches.append((size_at, struct.pack(number, counted)))
    if wide is not None:
        patches += [(chunk.size_at, b"\xff" * 4), (wide.at, struct.pack("<Q", stop - start - 8))]
    elif grammar.whole:
        patches.append((start + 16, struct.pack("<Q", stop - start)))
    return View(file, start, stop, tuple(patches))


def streamed(number: str) -> int:
    """Return the size from which on one means "written to a pipe" (SoX: 0x7FFFF000 ...).

    Args:
        number: How sizes are written, as `struct` says it.
    """
    return int((1 << (8 * struct.calcsize(number) - 1)) - 4096)


def _end_of_samples(file: io.BufferedIOBase, grammar: Grammar, first: int, end: int) -> int:
    """Return where the samples end that begin at `first`, in a file that does not say it."""
    end = before_tag(file, end)
    name = bytes_at(file, first, 4)
    if first >= end or name in KNOWN or _are_chunks(file, grammar, first, end):
        return first
    begin = max(first, end - TAIL_BYTES)
    found = [begin + match.start() for match in NAME.finditer(bytes_at(file, begin, end - begin))]
    for place in found[-MOST_CHUNKS:]:
        tag = id3_bytes(bytes_at(file, place, 10))
        if place + tag == end if tag else _are_chunks(file, grammar, place, end):
            return place
    return end


def _are_chunks(file: io.BufferedIOBase, grammar: Grammar, at: int, end: int) -> bool:
    """Tell whether chunks fill a file exactly, from a place to its end."""
    for chunk in islice(_chunks(file, grammar, at, end), MOST_CHUNKS):
        if not ANY_NAME.match(chunk.name) or chunk.size < 0:
            return False
        if 0 <= chunk.at + chunk.size + -chunk.size % grammar.align - end < grammar.align:
            return True
    return False
