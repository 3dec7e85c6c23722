"""Is it still the same speech? What an audit says of fronts that change it much, little, wholly."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import Tensor, nn

from servax.attacks import PGD
from servax.audit.settings import Audit
from servax.audit.sounds import changes
from servax.defences import Defended
from servax.evaluation.distortion import ANOTHER, Measure, available
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat
from servax.features import FrontEndSettings, Scale, ScaleSettings

ATTACK = Threat("pgd", "adaptive", PGD(step=0.1, epsilon=0.3, steps=1), kept=True)


class Halve(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


class OpinionWriter(nn.Module):
    """A recogniser in a purifier's clothes: the training clip of the class that it hears."""

    def __init__(self, clips: Tensor) -> None:
        super().__init__()
        self.clips = clips

    def forward(self, x: Tensor) -> Tensor:
        loud = x.square().mean(1) > self.clips.square().mean()
        return self.clips[loud.long()]


def audit_of(x: Tensor, inputs: str, speech: int = 3) -> Audit:
    count = len(x)
    subject = SimpleNamespace(
        inputs=inputs,
        sample_rate=16_000,
        name="made up",
        front_end=FrontEndSettings(),
        scale=Scale(ScaleSettings(top_db=20.0)),
    )
    table = pd.DataFrame({"speaker": [f"s{n % 3}" for n in range(count)]})
    return cast(
        Audit,
        SimpleNamespace(
            settings=SimpleNamespace(batch_size=2, seed=0, speech=speech),
            dataset=SimpleNamespace(
                x=x,
                y=torch.tensor([0, 0, 1, 1, 0, 1])[:count],
                corpus=SimpleNamespace(utterances=table),
            ),
            subject=subject,
        ),
    )


def system_of(front: nn.Module | None) -> System:
    model = nn.Identity()
    if front is None:
        return System(name=UNDEFENDED, model=model)
    return System(name="front", model=Defended(model, front), front=front)


def test_on_log_mel_it_is_the_distance_to_the_clean_input() -> None:
    x = torch.rand(6, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    ticks: list[None] = []
    rows = changes(
        audit_of(x, "logmel"),
        system_of(Halve()),
        [(ATTACK, x + 0.1)],
        tick=lambda: ticks.append(None),
    )
    assert [(r["defence"], r["attack"], r["knowledge"], r["utterances"]) for r in rows] == [
        ("front", "none", "none", 3),
        ("front", "pgd", "adaptive", 3),
    ]
    assert len(ticks) == 2
    window = ScaleSettings(top_db=20.0).window_db
    moved = 0.5 * (x + 0.1)
    for row, change in zip(rows, (0.5 * x, x - moved), strict=True):
        each = change[:3].abs().flatten(1).mean(1).numpy() * window
        assert row["log_mel_distance_db"] == pytest.approx(np.median(each), rel=1e-4)
    assert all(row["defence"] != ANOTHER for row in rows)


def test_another_clip_is_of_the_class_and_of_another_speaker() -> None:
    # One value for each utterance: the distance tells which one stood in its place.
    x = (torch.tensor([0.0, 0.1, 0.2, 0.4, 0.7, 1.0])[:, None, None, None]).expand(6, 1, 4, 5)
    rows = changes(audit_of(x, "logmel", 6), system_of(None), [], tick=lambda: None)
    window = ScaleSettings(top_db=20.0).window_db
    # Speakers s0 s1 s2 s0 s1 s2, classes 0 0 1 1 0 1: 0 → 1, 1 → 0 (4 is s1 too), 2 → 3, 3 → 5,
    # 4 → 0, 5 → 3.
    expected = np.median([0.1, 0.1, 0.2, 0.6, 0.7, 0.6]) * window
    assert [row["defence"] for row in rows] == [UNDEFENDED, ANOTHER]
    assert rows[0]["log_mel_distance_db"] == 0.0
    assert rows[1]["log_mel_distance_db"] == pytest.approx(expected, rel=1e-4)


def test_a_clip_that_cannot_be_told_leaves_the_median_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measures = {  # of the level of a clip: told of loud ones, and of none
        "loud": Measure("", "", "higher", lambda _, found: found[0] if found[0] > 0.1 else nan),
        "none": Measure("", "", "higher", lambda _, found: nan),
    }
    monkeypatch.setattr("servax.evaluation.distortion.MEASURES", measures)
    x = torch.tensor([0.1, 0.4, 0.8])[:, None].expand(3, 400)
    (row,) = changes(audit_of(x, "waveform"), system_of(Halve()), [], tick=lambda: None)
    assert row["loud"] == pytest.approx((0.2 + 0.4) / 2)
    assert row["none"] is None
    assert row["utterances"] == 3


@pytest.fixture(scope="module")
def speech(real_data: Callable[[str], Path]) -> Tensor:
    names = [f"Actor_0{n}/03-01-05-01-01-01-0{n}.wav" for n in (1, 2, 3, 4)]
    sounds = [soundfile.read(real_data("ravdess") / name)[0][8_000:48_000] for name in names]
    return torch.from_numpy(np.stack([each / np.abs(each).max() / 2 for each in sounds])).float()


@pytest.mark.skipif(
    "pesq" not in available(), reason="PESQ MISSING: it is compiled where it is installed"
)
@pytest.mark.real_corpus
def test_who_writes_an_opinion_into_the_sound_is_found_out(speech: Tensor) -> None:
    audit = audit_of(speech[:2], "waveform", 2)
    named: dict[str, Any] = {}
    for name, front in {"half": Halve(), "opinion": OpinionWriter(speech[2:])}.items():
        (named[name],) = changes(audit, system_of(front), [], tick=lambda: None)
    bare, another = changes(audit, system_of(None), [], tick=lambda: None)
    # Nothing changed: the ratio is infinite, and stands nowhere.
    assert bare["snr_db"] is None
    assert bare["stoi"] == pytest.approx(1.0)
    assert bare["pesq"] == pytest.approx(4.64, abs=0.01)
    # Half as loud is the same speech; its energy is (1 / .5)² times that of the change.
    assert named["half"]["snr_db"] == pytest.approx(6.02, abs=0.01)
    assert named["half"]["stoi"] == pytest.approx(1.0, abs=1e-3)
    assert named["half"]["pesq"] > 4.5
    for row in (named["opinion"], another):
        assert row["stoi"] < 0.5
        assert row["pesq"] < 1.5
