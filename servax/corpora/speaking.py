"""Has sentences spoken by espeak-ng, in a process of its own; `servax.corpora.espeak` says why."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from servax.errors import FetchError

__all__ = ["speak"]


def speak(
    voice: str, lines: Sequence[Mapping[str, Any]]
) -> list[tuple[npt.NDArray[np.int16], int]]:
    """Return samples (T,), int16, and their rate in hertz for each line.

    A line sounds the same each time the whole list is spoken.

    Args:
        voice: espeak-ng's name: ``en+m1``, ….
        lines: ``text``, ``rate`` (words per minute), ``pitch`` and ``pitch_range`` (0 to 100).

    Raises:
        FetchError: espeak-ng fails.
    """
    result = subprocess.run(
        # -P: the folder of the program must not shadow other modules.
        [sys.executable, "-P", str(Path(__file__).with_name("espeak.py"))],
        input=json.dumps({"voice": voice, "lines": list(lines)}).encode(),
        capture_output=True,
        check=False,
    )
    if result.returncode != 0:
        reason = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise FetchError(
            f"espeak-ng could not speak as {voice} ({''.join(reason)}): "
            f"reinstall espeakng-loader and try again."
        )
    (rate,) = struct.unpack_from("<I", result.stdout)
    offset = 4
    spoken = []
    for _ in lines:
        (count,) = struct.unpack_from("<I", result.stdout, offset)
        spoken.append((np.frombuffer(result.stdout, "<i2", count, offset + 4), rate))
        offset += 4 + 2 * count
    return spoken
