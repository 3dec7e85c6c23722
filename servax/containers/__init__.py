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
from pathlib import Path

from servax.containers.chunks import HEADS, TAIL_BYTES, grammar_of, streamed, view_of_chunks
from servax.containers.mp3 import frame_of, samples_of
from servax.containers.view import View, before_tag, bytes_at, id3_bytes, joined, search
from servax.errors import AudioError

__all__ = ["View", "behind_tags", "streamed", "view_of"]

OGG_PAGE_BYTES = 65_307
"""Of the largest page."""
MOST_TAGS = 4
OGG_BEGINS = re.compile(rb"OggS\0[\x02\x03\x06\x07]")
OGG_GOES_ON = re.compile(rb"OggS\0[\x00\x01\x04\x05]")
FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\0\0\x22")


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
        return View(file, start, end, samples=samples_of(file, name, start, end))
    elif (grammar := grammar_of(head)) is not None:
        return view_of_chunks(file, name, grammar, start, end)
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
