from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from servax import audio

LABELS = ("angry", "happy", "neutral", "sad")
RATE = 16_000

RECIPE = """
name: tiny
corpus: {{name: {manifest}, scheme: four}}
groups: 3
held_out: [1, 3]
seeds: [1]
width: 2
front_end: {{frames: 40}}
recogniser: {{epochs: 3, patience: 3, batch_size: 4, augment: {{time_width: 8, mel_width: 8}}}}
discriminator: {{channels: [2, 4], hidden: [8]}}
purifiers:
  ssad: {{epochs: 2, batch_size: 4, warmup_steps: 2, ssa: {{steps: 1}}}}
  ssad-residual: {{epochs: 2, batch_size: 4, warmup_steps: 2, ssa: {{steps: 1}}}}
adversarial:
  objectives: [similarity, trades, smoothed]
  epsilons: [0.02]
  training: {{iterations: 8, plain_iterations: 4, batch_size: 4}}
  trades: {{steps: 2}}
controls: {{quantise_bits: [4]}}
attacks: {{epsilons: [0.01, 0.03], step: 0.02, radius: 0.06, steps: 2, adaptive_steps: 3}}
batch_size: 4
compute: {{device: cpu}}
"""


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four speakers who say two utterances of each of four labels; return their table."""
    folder = tmp_path_factory.mktemp("corpus")
    draws = np.random.default_rng(4)
    lines = ["path,label,speaker,gender"]
    time = np.arange(int(0.6 * RATE)) / RATE
    for speaker in range(4):
        for label, name in enumerate(LABELS):
            for take in range(2):
                pitch = 150.0 * (label + 1) + 20.0 * speaker + 5.0 * take
                tone = np.sign(np.sin(2 * np.pi * pitch * time)) * 0.2
                path = f"s{speaker}-{name}-{take}.wav"
                audio.write(folder / path, tone + draws.normal(0, 0.02, len(time)), RATE)
                lines.append(f"{path},{name},s{speaker},{'female' if speaker % 2 else 'male'}")
    table = folder / "mine.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


@pytest.fixture(scope="session")
def recipe_file(manifest: Path) -> Path:
    path = manifest.parent / "tiny.yaml"
    path.write_text(RECIPE.format(manifest=manifest), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """Spare the seconds that figures take: any file stands for the report."""

    def write(_: object, out: Path, **__: object) -> None:
        out.mkdir(exist_ok=True)
        (out / "report.html").write_text("report", encoding="utf-8")

    with pytest.MonkeyPatch.context() as patch:
        # The package has a function of the module's name.
        patch.setattr(sys.modules["servax.experiments.run"], "write_report", write)
        yield
