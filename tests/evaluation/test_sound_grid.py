"""The attacks on a model of sound, each at every ratio, against attacks on one utterance alone."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from servax.attacks import PGD
from servax.corpora import COLUMNS, Corpus
from servax.errors import SettingError
from servax.evaluation.dataset import EvaluationSet
from servax.evaluation.engine import Identity, run
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.sound_grid import SoundGrid
from servax.evaluation.systems import System
from servax.perturbation import L2, into_16_bit
from servax.training import global_seed

SAMPLES, LABELS = 4_000, ("angry", "happy", "sad")


class Listener(nn.Module):
    """A smooth classifier of sound, which halves what it hears when it is a defence."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        with global_seed(1, "listener"):
            self.layers = nn.Sequential(nn.Linear(SAMPLES, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(20.0 * self.gain * x)
        return logits


@pytest.fixture(scope="module")
def heard() -> EvaluationSet:
    draws = torch.Generator().manual_seed(0)
    loudness = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.05, 0.1]).unsqueeze(1)
    x = into_16_bit(loudness * torch.randn(6, SAMPLES, generator=draws))
    y = Listener()(x).argmax(dim=1)
    table = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(6))
    table["utterance"] = [f"u{i}" for i in range(6)]
    table["label"] = table["emotion"] = [LABELS[int(i)] for i in y]
    table["speaker"], table["start"], table["end"] = "s", 0.0, math.nan
    corpus = Corpus("made", Path(), "native", LABELS, table)
    return EvaluationSet(corpus=corpus, x=x, y=y, names=LABELS, split="", recordings="")


def test_what_is_made_on_the_bare_model_is_an_l2_attack_on_each_utterance(heard: EvaluationSet):
    grid = SoundGrid(snr_db=(20.0, 50.0, 35.0), steps=4)
    bare, other = Listener(), Listener(gain=0.5)
    systems = [
        System(name=name, model=model, inputs="waveform")
        for name, model in ((UNDEFENDED, bare), ("d", other))
    ]
    identity = Identity(target="listener", fold=1, seed=0)
    frame = run(systems, grid.oblivious(), heard, identity=identity).frame
    assert set(frame["space"]) == {"waveform"}
    attacked = frame[frame["attack"] == "pgd"]
    assert set(attacked["norm"]) == {"snr"}
    assert sorted(set(attacked["strength"])) == pytest.approx([10**-2.5, 10**-1.75, 0.1])
    turned = 0
    for row in attacked.itertuples():
        position = int(str(row.utterance)[1:])
        x, y = heard.x[[position]], heard.y[[position]]
        radius = float(row.strength) * float(x.double().norm())
        pgd = PGD(norm=L2, epsilon=radius, step=radius / 4, steps=4, bounds=(-1, 1))
        model = bare if row.defence == UNDEFENDED else other
        assert row.prediction == LABELS[int(model(pgd(bare, x, y)).argmax())]
        turned += row.prediction != row.label
    assert 0 < turned < len(attacked)


def test_everyone_tries_every_ratio(heard: EvaluationSet):
    grid = SoundGrid(
        snr_db=(40.0, 20.0), steps=3, targeted=2, restarts=2, masked=2, square=9, estimated=60
    )
    bare = System(name=UNDEFENDED, model=Listener(), inputs="waveform")
    threats = [grid.noise(), *grid.black_box(), *grid.bpda(), *grid.adaptive()]
    threats += grid.transfer("other")
    given = {"identity": Identity(target="listener", fold=1, seed=0)}
    frame = run([bare], threats, heard, surrogates={"other": Listener(2.0)}, **given).frame
    frame["wrong"] = frame["prediction"] != frame["label"]
    rates = frame.pivot_table("wrong", ["knowledge", "attack"], "strength")
    alone = [("adaptive", "pgd-masked"), ("none", "none")]
    assert rates.drop(index=alone)[[0.01, 0.1]].notna().all(axis=None)
    names = {"noise", "square", "nes", "pgd", "apgd-ce", "apgd-targeted", "pgd-restarts"}
    assert {*rates.index.get_level_values(1)} == names | {
        "pgd-masked",
        "pgd-other",
        "mi-di-other",
        "none",
    }
    loudest = rates[0.1]
    assert loudest["adaptive", "pgd"] > loudest["black_box", "noise"]
    assert loudest["adaptive", "apgd-ce"] == 1.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"snr_db": ()}, "snr_db is (), expected at least one ratio, and each once."),
        (
            {"snr_db": (40, 40)},
            "snr_db is (40.0, 40.0), expected at least one ratio, and each once.",
        ),
        (
            {"snr_db": (99,)},
            "snr_db is 99.0, expected a ratio above 0 dB, the level of the utterance, and at most "
            "90: 16 bits hold no more.",
        ),
        ({"steps": 0}, "steps is 0, expected a whole number of at least 1."),
        ({"restarts": -1}, "restarts is -1, expected a finite number of at least 0."),
        (
            {"sample_rate": 10},
            "sample_rate is 10, expected a rate of at least 1000 Hz.",
        ),
    ],
)
def test_a_grid_refuses(settings: dict[str, object], sentence: str):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        SoundGrid(**settings)  # type: ignore[arg-type]
