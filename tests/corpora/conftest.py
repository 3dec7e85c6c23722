from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from servax import audio
from servax.corpora import COLUMNS, Corpus

Speak = Callable[[Path], Path]
Build = Callable[..., Corpus]


def speak(path: Path) -> Path:
    """Write 50 ms of noise that is different for each file name."""
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, np.random.default_rng(seed).normal(size=400) * 0.1, 8_000)
    return path


@pytest.fixture(name="speak")
def _speak() -> Speak:
    return speak


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Make a corpus of small files: ``build([("s1", "angry"), …], session={"s1": "1"})``."""

    def make(
        rows: Iterable[tuple[str, str]], session: dict[str, str] | None = None, name: str = "made"
    ) -> Corpus:
        table = []
        for number, (speaker, label) in enumerate(rows):
            file = speak(tmp_path / name / f"{number:03d}.wav")
            table.append(
                {
                    "utterance": f"u{number:03d}",
                    "path": file.name,
                    "label": label,
                    "emotion": label,
                    "speaker": speaker,
                    "gender": "",
                    "session": (session or {}).get(speaker, ""),
                    "text": "",
                    "start": 0.0,
                    "end": float("nan"),
                }
            )
        return Corpus(
            name=name,
            root=tmp_path / name,
            scheme="native",
            labels=tuple(sorted({row["label"] for row in table})),
            utterances=pd.DataFrame(table, columns=list(COLUMNS)),
        )

    return make
