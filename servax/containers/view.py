"""A part of a file as libsndfile is to read it, and what is found in files whatever they hold."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from servax.errors import AudioError

BLOCK_BYTES = 1 << 20


class View:
    """A part of a file as a file, with a few bytes replaced; its seeks never raise.

    A callback from C has nowhere to raise to, and a header that lies can send libsndfile to before
    the start of its file.

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
        self._file.seek(first)
        read = bytearray(self._file.read(count))
        for place, replacing in self._patches:
            for i, byte in enumerate(replacing, start=place - first):
                if 0 <= i < len(read):
                    read[i] = byte
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)


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
