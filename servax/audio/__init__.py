"""Sound in and out: any file libsndfile reads, WAV and FLAC written whole or not at all."""

from servax.audio.reading import (
    Sound,
    blocks,
    duration_seconds,
    inspect,
    missing,
    open_sound,
    opened,
    read,
    read_whole,
    regular,
    stretch,
)
from servax.audio.writing import (
    FLOATS,
    IN_RANGE,
    WRITABLE,
    as_written,
    created,
    encoded,
    subtype_of,
    write,
)

__all__ = [
    "FLOATS",
    "IN_RANGE",
    "WRITABLE",
    "Sound",
    "as_written",
    "blocks",
    "created",
    "duration_seconds",
    "encoded",
    "inspect",
    "missing",
    "open_sound",
    "opened",
    "read",
    "read_whole",
    "regular",
    "stretch",
    "subtype_of",
    "write",
]
