from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from servax import audio
from servax.corpora import Corpus, load

Speech = Callable[..., Tensor]
MakeCorpus = Callable[..., Corpus]


def speech_like(seed: int, samples: int = 24_000, batch: int = 1) -> Tensor:
    """Return (B, T) sounds with a gliding pitch, formant-like weights, pauses and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    sounds = []
    for _ in range(batch):
        pitch = rng.uniform(90, 250) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 3) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / 16_000
        voice = sum(np.sin(h * phase + rng.uniform(0, 6)) / h for h in range(1, 25))
        envelope = np.clip(np.sin(2 * np.pi * rng.uniform(1, 4) * time), 0, 1)
        sounds.append(0.1 * voice * envelope + 10 ** rng.uniform(-4, -2) * rng.normal(size=samples))
    return torch.from_numpy(np.stack(sounds).astype(np.float32))


@pytest.fixture(scope="session")
def speech() -> Speech:
    return speech_like


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Write sounds of .2 to .6 s and a manifest: ``make_corpus(4)``."""

    def make(count: int, name: str = "own") -> Corpus:
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for i in range(count):
            sound = speech_like(i, samples=3_200 + 1_600 * (i % 5))[0].numpy()
            audio.write(folder / f"{i}.wav", sound, 16_000)
            rows.append((f"{i}.wav", ("angry", "sad")[i % 2], f"s{i % 3}"))
        table = pd.DataFrame(rows, columns=["path", "label", "speaker"])
        table.to_csv(folder / f"{name}.csv", index=False)
        return load(folder / f"{name}.csv")

    return make
