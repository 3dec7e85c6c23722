from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from servax.evaluation.records import Records
from servax.report import Examples

CLASSES = ("angry", "happy", "neutral", "sad")
EPSILONS = (0.003, 0.006, 0.009, 0.012, 0.015)

# Share of right predictions: clean, slope over ε, floor under PGD, half-life in steps, adaptive.
DEFENCES = {
    "undefended": (0.66, 40.0, 0.00, 2.0, 0.00),
    "gaussian-noise": (0.61, 33.0, 0.05, 3.0, 0.01),
    "mean-filter": (0.60, 22.0, 0.20, 4.0, 0.00),
    "quantise-8": (0.66, 39.0, 0.01, 2.0, 0.00),
    "quantise-4": (0.64, 30.0, 0.04, 2.5, 0.02),
    "ssad": (0.60, 9.0, 0.36, 5.0, 0.06),
    "ssad-residual": (0.65, 20.0, 0.22, 5.0, 0.02),
}

PROVENANCE = {
    "servax": "0.1.0",
    "command": "servax run recipes/ravdess_quick.yaml",
    "recipe": "recipes/ravdess_quick.yaml",
    "commit": "0123abc",
    "machine": "2 cores, 8 GiB, Linux x86_64",
    "corpus": "made-up",
    "scheme": "four",
    "fold_hash": "9f86d081",
    "seed": 0,
    "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
    "scale": {"window_db": 80.0},
    "attacks": {"pgd": {"step": 0.003, "radius": 0.02}},
}


SMALLEST_POINTS = 8.0  # of all type but the numbers in large confusion matrices


def conditions() -> list[tuple[str, float, str]]:
    found = [("none", 0.0, "none")]
    found += [("fgsm", epsilon, "oblivious") for epsilon in EPSILONS]
    found += [("pgd", float(k), "oblivious") for k in range(1, 31)]
    return [*found, ("pgd", 30.0, "adaptive")]


def share(defence: str, attack: str, strength: float, knowledge: str) -> float:
    clean, slope, floor, life, adaptive = DEFENCES[defence]
    if knowledge == "adaptive":
        return adaptive
    if attack == "fgsm":
        return max(clean - slope * strength, 0.05)
    if attack == "pgd":
        return floor + (clean - floor) * 0.5 ** (strength / life)
    return clean


def make_frame(*, folds: int = 2, speakers: int = 4, each: int = 20, seed: int = 0) -> pd.DataFrame:
    """Return made-up records whose shares fall with strength as those of real runs do."""
    rng = np.random.default_rng(seed)
    parts = []
    for fold in range(folds):
        count = speakers * each
        names = [f"u{fold}-{i:03d}" for i in range(count)]
        who = [f"s{fold}{i % speakers}" for i in range(count)]
        truth = rng.integers(0, len(CLASSES), count)
        hardness = rng.uniform(size=count)
        for defence in DEFENCES:
            for attack, strength, knowledge in conditions():
                redrawn = rng.uniform(size=count) < 0.25 * (defence != "undefended")
                noisy = np.where(redrawn, rng.uniform(size=count), hardness)
                right = noisy < share(defence, attack, strength, knowledge)
                wrong = (truth + rng.integers(1, len(CLASSES), count)) % len(CLASSES)
                parts.append(
                    pd.DataFrame(
                        {
                            "utterance": names,
                            "speaker": who,
                            "fold": fold,
                            "seed": 0,
                            "label": [CLASSES[i] for i in truth],
                            "prediction": [CLASSES[i] for i in np.where(right, truth, wrong)],
                            "target": "vgg16",
                            "defence": defence,
                            "attack": attack,
                            "strength": strength,
                            "knowledge": knowledge,
                            "gender": "female",
                            "corpus": "made-up",
                        }
                    )
                )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def small() -> pd.DataFrame:
    """Return 48 utterances of six speakers in two folds, in every condition."""
    return make_frame(speakers=3, each=8)


@pytest.fixture(scope="session")
def records(small: pd.DataFrame) -> Records:
    return Records(small, PROVENANCE)


@pytest.fixture(scope="session")
def examples() -> Examples:
    """Return something like speech: harmonics that glide, on a floor of noise."""
    rng = np.random.default_rng(0)
    bins, frames = 64, 200
    time = np.linspace(0, 1, frames)
    ridge = sum(
        np.exp(-((np.arange(bins)[:, None] - (8 * h + 4 * np.sin(6 * time + h))) ** 2) / 6)
        for h in range(1, 7)
    )
    original = -80 + 65 * np.clip(ridge * (0.5 + 0.5 * np.sin(9 * time)), 0, 1)
    original = original + rng.normal(0, 2, original.shape)
    attacked = original + 1.6 * np.sign(rng.normal(size=original.shape))
    purified = original + rng.normal(0, 3, original.shape)
    return Examples(original, attacked, purified, 0.016, "s00, angry, PGD-15 at radius .02")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "recogniser.jsonl"
    lines = [
        {
            "epoch": epoch,
            "train/loss": 1.4 * 0.9**epoch,
            "validation/loss": 1.4 * 0.93**epoch + 0.01 * epoch,
            "validation/uar": 0.7 - 0.4 * 0.85**epoch,
            "train/rate": 1e-3,
        }
        for epoch in range(15)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def check_figure(figure: Figure) -> None:
    """Every text lies on the page and is large enough to read."""
    figure.canvas.draw()
    drawn = figure.get_tightbbox(figure.canvas.get_renderer())  # in inches, as the size is
    width, height = figure.get_size_inches()
    assert drawn.x0 >= -0.02
    assert drawn.y0 >= -0.02
    assert drawn.x1 <= width + 0.02
    assert drawn.y1 <= height + 0.02
    for text in figure.findobj(Text):
        assert text.get_fontsize() >= SMALLEST_POINTS or not text.get_text(), text.get_text()


@pytest.fixture(scope="session")
def check() -> Callable[[Figure], None]:
    return check_figure


EVERYONE = (
    *(f"adversarial-similarity-{epsilon:g}" for epsilon in EPSILONS),
    *(f"adversarial-vanilla-{epsilon:g}" for epsilon in EPSILONS),
    "pgd-at",
    "trades",
    "ssad",
    "ssad-residual",
    "gaussian-noise",
    "mean-filter",
    "quantise-4",
    "quantise-8",
    "undefended",
)
"""All defences of a complete run, in the order of the tables."""


@pytest.fixture(scope="session")
def everyone(small: pd.DataFrame) -> pd.DataFrame:
    """Return a complete run: 19 defences, and the attacker who knows them at all strengths."""
    rng = np.random.default_rng(7)
    oblivious = small[(small["defence"] == "ssad") & (small["knowledge"] != "adaptive")]
    known = oblivious[
        ((oblivious["attack"] == "fgsm") | oblivious["strength"].isin((3, 6, 9, 12, 15, 30)))
        & (oblivious["attack"] != "none")
    ]
    parts = []
    for i, defence in enumerate(EVERYONE):
        knowledge = "bpda" if defence.startswith("quantise") else "adaptive"
        rows = pd.concat([oblivious, known.assign(knowledge=knowledge)]).assign(defence=defence)
        changed = rng.uniform(size=len(rows)) < 0.02 * (1 + i)
        other = rng.choice(CLASSES, size=len(rows))
        parts.append(rows.assign(prediction=rows["prediction"].mask(changed, other)))
    return pd.concat(parts, ignore_index=True)
