"""Sound in and out: any file libsndfile reads, WAV and FLAC written whole or not at all."""

from servax.audio.reading import (
    Sound as Sound,
    beyond_full_scale as beyond_full_scale,
    blocks as blocks,
    duration_seconds as duration_seconds,
    inspect as inspect,
    missing as missing,
    open_sound as open_sound,
    opened as opened,
    read as read,
    read_in_range as read_in_range,
    read_whole as read_whole,
    regular as regular,
    stretch as stretch,
)
from servax.audio.writing import (
    FLOATS as FLOATS,
    IN_RANGE as IN_RANGE,
    WRITABLE as WRITABLE,
    as_written as as_written,
    created as created,
    encoded as encoded,
    subtype_of as subtype_of,
    write as write,
)
