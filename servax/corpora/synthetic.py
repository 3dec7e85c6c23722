"""The synthetic corpus: sentences that a program speaks, so that a demo needs no recordings.

espeak-ng (GPL-3.0, installed by the ``espeakng-loader`` wheel) reads 10 neutral sentences with 13
English voices in 4 "emotions". These are not emotions: for each utterance the speaking rate, the
pitch, the pitch range and the loudness are drawn from normal distributions whose means depend on
the label and which overlap, so that a recogniser is right more often than not, and not always.
Results on this corpus say that the machinery works; they say nothing about people.

The directions are those usually found in acted speech (Scherer 2003, "Vocal communication of
emotion", Speech Communication 40): anger and joy faster, wider and louder, joy higher, sadness the
opposite. The sizes are our choice: a VGG-16 of width 8 on levelled log-Mel, 20 epochs, recognises
unseen voices in 66 to 88 % of cases (mean over 4 folds 79 %; chance is 25 %).

The same settings give the same bytes, in this process or another one. Sound lies as 16-bit FLAC at
16 kHz in ``<folder>/<hash of the settings>/``, next to ``utterances.csv``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import soxr

from servax import audio
from servax.corpora.description import Description, Progress, Scan, Utterance
from servax.errors import CorpusError, FetchError, SettingError

VERSION = 1
"""Goes into the hash: raise it when the same settings begin to give other sound."""
SAMPLE_RATE = 16_000
TABLE = "utterances.csv"
TABLE_COLUMNS = ("utterance", "path", "emotion", "speaker", "gender", "text")
VOICES = ("m1", "f1", "m6", "m2", "f2", "m7", "m3", "f3", "m8", "m4", "f4", "m5", "f5")
"""Variants of the voice ``en``; the first letter tells the gender. Speakers carry their place in
this list (``01m1``, ``02f1``, …), so that contiguous groups of speakers hold both genders, and no
group holds all of m6, m7 and m8, which sound unlike the rest."""
SENTENCES = (
    "The kids are talking by the door.",
    "We will meet at the station on Monday.",
    "The blue cup stands on the kitchen table.",
    "She put the letter into the top drawer.",
    "It will be raining again in the evening.",
    "They moved the chairs to the other room.",
    "The bus to the airport leaves at seven.",
    "He wrote the number on a piece of paper.",
    "Somebody left a bag under the window.",
    "The shop around the corner sells fresh bread.",
)


@dataclass(frozen=True)
class Prosody:
    """Mean and standard deviation of what is drawn for each utterance of one label."""

    rate: tuple[float, float]
    """Words per minute."""
    pitch: tuple[float, float]
    """espeak-ng's pitch, 0 to 100, around the voice's own."""
    pitch_range: tuple[float, float]
    """espeak-ng's pitch range, 0 (monotone) to 100."""
    level_db: tuple[float, float]
    """Peak level, in decibels below full scale."""


PROSODY = {
    "angry": Prosody((220, 17), (48, 8), (86, 9), (-5, 3)),
    "happy": Prosody((184, 16), (74, 8), (80, 10), (-7, 3)),
    "neutral": Prosody((165, 14), (42, 8), (32, 10), (-10, 3)),
    "sad": Prosody((126, 14), (30, 8), (14, 8), (-15, 3)),
}
LIMITS = {"rate": (90, 300), "pitch": (0, 99), "pitch_range": (0, 99), "level_db": (-40, -1)}


def generate(folder: str | Path, *, seed: int = 0, progress: Progress | None = None) -> Path:
    """Return the folder of the corpus for `seed`, after speaking it if it is not there yet.

    Args:
        folder: Where such folders are kept.
        seed: Decides what is drawn, >= 0.
        progress: Told after each voice how many are done, of how many.

    Raises:
        SettingError: `seed` is not a whole number >= 0.
        FetchError: espeak-ng fails, or the folder cannot be written.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingError("seed", seed, "a whole number >= 0")
    parent = Path(folder)
    target = parent / _key(seed)
    if (target / TABLE).is_file():
        return target
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=parent, prefix=".speaking-"))
    except OSError as error:
        raise FetchError(
            f"{parent}: cannot hold the synthetic corpus ({error.strerror}): "
            f"pass a folder that can be written."
        ) from None
    try:
        _speak_all(work, _plan(seed), progress)
        _publish(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def scan(root: Path) -> Scan:
    """Read the table that `generate` wrote.

    Raises:
        CorpusError: The table is not the one that `generate` writes.
    """
    try:
        table = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False)
        rows = table[list(TABLE_COLUMNS)].to_dict("records")
        return Scan(tuple(Utterance(**{str(k): v for k, v in row.items()}) for row in rows))
    except (OSError, KeyError, ValueError):
        raise CorpusError(
            f"{root}: is no synthetic corpus or a damaged one, remove it and try again."
        ) from None


def speak(
    voice: str, lines: Sequence[Mapping[str, Any]]
) -> list[tuple[npt.NDArray[np.int16], int]]:
    """Return samples (T,), int16, and their rate in hertz for each line.

    A line sounds the same each time the whole list is spoken, by a process of its own:
    `servax.corpora.espeak` says why.

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


def _speaker(voice: str) -> str:
    """Return the speaker's name: place in the list of voices, then the voice."""
    return f"{VOICES.index(voice) + 1:02d}{voice}"


def _key(seed: int) -> str:
    """Return a short hash of everything that decides the sound."""
    settings = {
        "version": VERSION,
        "seed": seed,
        "voices": VOICES,
        "sentences": SENTENCES,
        "prosody": {label: asdict(prosody) for label, prosody in PROSODY.items()},
        "limits": LIMITS,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _plan(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Draw every utterance: voice → lines to speak, in one fixed order."""
    generator = np.random.default_rng(seed)
    plan: dict[str, list[dict[str, Any]]] = {}
    for voice in VOICES:
        for label, prosody in PROSODY.items():
            for number, text in enumerate(SENTENCES):
                line: dict[str, Any] = {"text": text, "label": label, "sentence": number}
                for name, (mean, deviation) in asdict(prosody).items():
                    low, high = LIMITS[name]
                    value = float(np.clip(generator.normal(mean, deviation), low, high))
                    line[name] = value if name == "level_db" else round(value)
                plan.setdefault(voice, []).append(line)
    return plan


def _speak_all(
    folder: Path, plan: dict[str, list[dict[str, Any]]], progress: Progress | None
) -> None:
    """Write the sound of every line, two voices at a time, and the table."""
    rows: list[dict[str, str]] = []
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        spoken = pool.map(partial(_speak_voice, folder), plan, plan.values())
        for done, voice_rows in enumerate(spoken, start=1):
            rows += voice_rows
            if progress is not None:
                progress(done, len(plan))
    pd.DataFrame(rows, columns=list(TABLE_COLUMNS)).to_csv(
        folder / TABLE, index=False, lineterminator="\n"
    )


def _speak_voice(folder: Path, voice: str, lines: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Write the sound of one voice; return its rows of the table."""
    rows = []
    speaker = _speaker(voice)
    for line, (samples, rate) in zip(lines, speak(f"en+{voice}", lines), strict=True):
        name = f"{speaker}_{line['label']}_{line['sentence']}"
        sound = soxr.resample(samples.astype(np.float32), rate, SAMPLE_RATE, quality="HQ")
        sound *= 10 ** (line["level_db"] / 20) / np.abs(sound).max()
        audio.write(folder / f"{name}.flac", sound, SAMPLE_RATE)
        rows.append(
            {
                "utterance": name,
                "path": f"{name}.flac",
                "emotion": line["label"],
                "speaker": speaker,
                "gender": "male" if voice.startswith("m") else "female",
                "text": str(line["sentence"]),
            }
        )
    return rows


def _publish(work: Path, target: Path) -> None:
    """Rename the finished folder into place; keep another process's copy if it was faster."""
    try:
        work.rename(target)
    except OSError:
        if not (target / TABLE).is_file():
            raise CorpusError(
                f"{target}: is in the way of the synthetic corpus, remove it and try again."
            ) from None


DESCRIPTION = Description(
    name="synthetic",
    title="Sentences spoken by espeak-ng with drawn prosody (not recordings, not emotions)",
    homepage="https://github.com/espeak-ng/espeak-ng",
    licence="made on this machine; espeak-ng itself is GPL-3.0",
    reference="none: it is made by a program, cite nothing and conclude nothing about people",
    language="English (synthetic)",
    counts=dict.fromkeys(PROSODY, len(VOICES) * len(SENTENCES)),
    speakers=tuple(_speaker(voice) for voice in VOICES),
    scan=scan,
    by_hand="there is nothing to fetch, servax speaks it when it is loaded",
)
