"""Which bytes of a file are its sound: tags, chunks, sizes that were never filled in, joined files.

libsndfile reads a well-formed file. What a program leaves that was killed or wrote to a pipe, and
what others put before and behind a sound, it takes for sound, or it leaves sound out. So the layout
is read here first, and libsndfile gets a `View` of the file in which the sizes are true.

- A chunk of samples whose size is 0, or too large for any file, was never closed: its samples end
  where other chunks begin, or with the file. Where other chunks begin at once there are none.
- Of files one behind another (``cat a.ogg b.ogg > c.ogg``) libsndfile reads the first alone, and of
  an MP3 of changing bit rate that counts no frames a guess: refused.

Sources: Multimedia Programming Interface 1.0 (RIFF), EBU Tech 3306 (RF64), AIFF-C draft 1991,
Apple Core Audio Format 1.0, Sony Wave64, RFC 3533 (Ogg), RFC 9639 (FLAC), ISO 11172-3 (MP3),
ID3v2.4.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from servax.audio.mp3 import BLOCK_BYTES, frame_of, samples_of
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
OGG_PAGE_BYTES = 65_307
"""Of the largest page."""
MOST_TAGS = 4
OGG_BEGINS = re.compile(rb"OggS\0[\x02\x03\x06\x07]")
OGG_GOES_ON = re.compile(rb"OggS\0[\x00\x01\x04\x05]")
FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\0\0\x22")


class View:
    """A part of a file as a file, with a few bytes replaced, that never raises.

    A callback from C has nowhere to raise to, and a header that lies can send libsndfile to before
    the start of its file. What the system said when it could not read is kept in `error`;
    libsndfile would call it "System error."

    Args:
        file: It must stay open as long as the view is used.
        start: First byte that belongs to the view.
        stop: Byte after the last one; default the end of the file.
        patches: What stands at a place of the file instead of what does.
        samples: How many of each channel were counted in it, where they were.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        start: int = 0,
        stop: int | None = None,
        patches: tuple[tuple[int, bytes], ...] = (),
        *,
        samples: int | None = None,
    ) -> None:
        self._file, self._start, self._patches = file, start, patches
        self.size = (file.seek(0, os.SEEK_END) if stop is None else stop) - start
        self.samples = samples
        self.error: OSError | None = None
        self._at = 0

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, or stay where no file has it."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if 0 <= at < 1 << 62:
            self._at = at
        return self._at

    def readinto(self, buffer: memoryview | bytearray) -> int:
        """Fill a buffer with what comes next and return how many bytes that is."""
        count = max(0, min(len(buffer), self.size - self._at))
        first = self._start + self._at
        try:
            read = bytearray(bytes_at(self._file, first, count))
        except OSError as error:
            self.error = error
            return 0
        for place, replacing in self._patches:
            for i, byte in enumerate(replacing, start=place - first):
                if 0 <= i < len(read):
                    read[i] = byte
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)


def view_of(file: io.BufferedIOBase, name: str | Path) -> View:
    """Return the bytes of the one sound in a file, as libsndfile is to read them.

    Args:
        file: A whole file.
        name: What a refusal calls it.

    Raises:
        AudioError: It holds no samples, is cut off, or is several files one behind another.
    """
    start, end = behind_tags(file), file.seek(0, os.SEEK_END)
    head = bytes_at(file, start, 44)
    if head.startswith(b"OggS"):
        _check_ogg(file, name, start, end)
    elif head.startswith(b"fLaC") and search(file, FLAC_BEGINS, start + 4, end) is not None:
        raise joined(name)
    elif head.startswith(b".snd") and len(head) >= 12:
        first, size = struct.unpack(">II", head[4:12])
        behind = start + first + size
        if behind > end and size >= streamed(">I"):
            return View(file, start, before_tag(file, end))
        if search(file, HEADS, behind, min(end, behind + TAIL_BYTES)) is not None:
            raise joined(name)
    elif frame_of(head) is not None:
        samples = samples_of(file, start, end)
        if samples is None:
            raise joined(name)
        return View(file, start, end, samples=samples)
    elif (grammar := grammar_of(head)) is not None:
        return _view_of_chunks(file, name, grammar, start, end)
    return View(file, start, end)


def behind_tags(file: io.BufferedIOBase) -> int:
    """Return where a file begins behind the ID3v2 tags that some programs put before any sound."""
    start = 0
    for _ in range(MOST_TAGS):
        length = id3_bytes(bytes_at(file, start, 10))
        if length == 0:
            break
        start += length
    return start


def _check_ogg(file: io.BufferedIOBase, name: str | Path, start: int, end: int) -> None:
    """Refuse a stream that lacks its last page (RFC 3533), and one behind which others stand."""
    first = max(start, end - 2 * OGG_PAGE_BYTES)
    tail = bytes_at(file, first, end - first)
    page = tail[tail.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = 27 + len(segments) + sum(segments)
    if len(page) < 27 or len(segments) < page[26] or len(page) < whole or not page[5] & 0x04:
        raise AudioError(name, "is cut off: its last OGG page is missing", cause="damaged")
    # All streams that sound together begin before any goes on.
    gone_on = search(file, OGG_GOES_ON, start, end)
    if gone_on is not None and search(file, OGG_BEGINS, gone_on, end) is not None:
        raise joined(name)


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


def _view_of_chunks(
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


def bytes_at(file: io.BufferedIOBase, place: int, count: int) -> bytes:
    """Return at most so many bytes from a place of a file."""
    file.seek(max(0, place))
    return file.read(max(0, count))


def search(file: io.BufferedIOBase, pattern: re.Pattern[bytes], start: int, end: int) -> int | None:
    """Return where a short pattern is first found in a stretch of a file."""
    for begin in range(start, end, BLOCK_BYTES):
        match = pattern.search(bytes_at(file, begin, min(end - begin, BLOCK_BYTES + 16)))
        if match:
            return begin + match.start()
    return None


def id3_bytes(head: bytes) -> int:
    """Return how long the ID3v2 tag is that begins with `head`, 0 where none does."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def before_tag(file: io.BufferedIOBase, end: int) -> int:
    """Return where a file ends before the ID3v1 tag that some programs put behind any sound."""
    return end - 128 if bytes_at(file, end - 128, 3) == b"TAG" else end


def joined(name: str | Path) -> AudioError:
    """Return the refusal of a file of which libsndfile would read the first sound alone."""
    reason = (
        "holds several sounds one behind the other, of which only the first would be read: cut "
        "them apart, or make one WAV file of them"
    )
    return AudioError(name, reason, cause="joined")
