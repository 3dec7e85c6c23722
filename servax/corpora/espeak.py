"""One voice of espeak-ng reads a plan from standard input and answers with sound.

This file is run as a program, in a process of its own, by `servax.corpora.synthetic`. espeak-ng
keeps its state in global variables that no call resets (the phase of its oscillators, the place in
its flutter table, its random seed), so a sentence sounds different after another one. A fresh
process with a fixed seed is the only way to the same bytes twice, and it also keeps that state
away from the caller's threads. Standard library and espeakng-loader only: it must start quickly.

Input: one JSON object ``{"voice": "en+m1", "lines": [{"text": …, "rate": …, "pitch": …,
"pitch_range": …}, …]}``. Output, little-endian: the sample rate (uint32), then for each line the
number of samples (uint32) and the samples (int16).
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import espeakng_loader

RETRIEVAL = 1
"""AUDIO_OUTPUT_RETRIEVAL of speak_lib.h: sound goes to a callback, not to a device."""
DO_NOT_EXIT = 0x8000
"""espeakINITIALIZE_DONT_EXIT: report a missing voice folder instead of ending the process."""
UTF8 = 1
"""espeakCHARS_UTF8."""
PARAMETERS = {"rate": 1, "pitch": 3, "pitch_range": 4}
"""espeakRATE (words per minute), espeakPITCH and espeakRANGE (0 to 100)."""
RANDOM_SEED = 1

Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Voice:
    """espeak-ng with one voice; build it once in a process."""

    def __init__(self, name: str) -> None:
        self._sound = bytearray()
        self._callback = Callback(self._hear)  # must outlive every call into the library
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self.sample_rate = self._library.espeak_Initialize(RETRIEVAL, 0, data, DO_NOT_EXIT)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng cannot read its voices in {data.decode()}")
        variant = name.partition("+")[2]
        if variant and not (Path(data.decode()) / "voices" / "!v" / variant).is_file():
            # espeak-ng itself would fall back to the plain voice without a word.
            raise RuntimeError(f"espeak-ng has no voice variant {variant}")
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(RANDOM_SEED))
        self._check(self._library.espeak_SetVoiceByName(name.encode()), f"voice {name}")

    def speak(self, text: str, settings: Mapping[str, int]) -> bytes:
        """Return a sentence as int16 samples at `sample_rate`."""
        self._sound.clear()
        for parameter, number in PARAMETERS.items():
            status = self._library.espeak_SetParameter(number, settings[parameter], 0)
            self._check(status, f"{parameter} {settings[parameter]}")
        line = text.encode()
        status = self._library.espeak_Synth(line, len(line) + 1, 0, 1, 0, UTF8, None, None)
        self._check(status, repr(text))
        self._check(self._library.espeak_Synchronize(), repr(text))
        return bytes(self._sound)

    def _hear(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _: int) -> int:
        if samples and count > 0:
            self._sound += ctypes.string_at(samples, 2 * count)
        return 0

    def _check(self, status: int, what: str) -> None:
        if status != 0:
            raise RuntimeError(f"espeak-ng refuses {what} (status {status})")


def main() -> None:
    """Answer the plan on standard input."""
    plan = json.load(sys.stdin)
    voice = Voice(plan["voice"])
    out = sys.stdout.buffer
    out.write(struct.pack("<I", voice.sample_rate))
    for line in plan["lines"]:
        sound = voice.speak(line["text"], line)
        out.write(struct.pack("<I", len(sound) // 2) + sound)
    out.flush()


if __name__ == "__main__":
    main()
