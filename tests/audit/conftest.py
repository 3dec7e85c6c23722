from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from servax import audio
from servax.audit import Audit, Audited, AuditSettings, run_audit
from servax.corpora import Selection
from servax.evaluation.dataset import gather
from servax.evaluation.loading import load_system
from servax.evaluation.systems import System
from servax.evaluation.threats import Budget
from servax.models import VGG16, save_network
from servax.stages import Watcher
from servax.training import global_seed

LABELS = ("angry", "happy", "neutral", "sad")
RATE = 16_000
RADIUS = 0.053
"""Breaks about half of what `Bands` gets right."""
EXTRA = {
    "role": "recogniser",
    "labels": list(LABELS),
    "front_end": {"frames": 40, "logmel": {"mels": 32}},
    "scale": {"top_db": 20.0, "window_db": 80.0},
}
CODE = """
from pathlib import Path

import numpy as np
import torch
from torch import nn

from servax.features import FrontEndSettings, LogMelSettings, Scale, ScaleSettings


class Bands(nn.Module):
    inputs = "logmel"
    labels = ("angry", "happy", "neutral", "sad")

    def __init__(self):
        super().__init__()
        self.front_end = FrontEndSettings(LogMelSettings(mels=32), frames=40)
        self.scale = Scale(ScaleSettings(top_db=20.0))
        told = np.load(Path(__file__).with_name("bands.npz"))
        self.layer = nn.Linear(32, 4)
        self.layer.load_state_dict({k: torch.from_numpy(told[k]) for k in ("weight", "bias")})

    def forward(self, x):
        return self.layer(x.mean(3)[:, 0])


class Shut(Bands):
    def forward(self, x):
        return super().forward(x.detach())


class Sound(nn.Module):
    inputs = "waveform"
    sample_rate = 16000
    labels = ("angry", "happy", "neutral", "sad")

    def __init__(self):
        super().__init__()
        time = torch.arange(400) / 16000
        centres = torch.tensor([330.0, 1230.0, 2130.0, 3030.0])
        self.register_buffer("filters", torch.cos(2 * torch.pi * centres[:, None] * time)[:, None])

    def forward(self, x):
        heard = nn.functional.conv1d(x[:, None], self.filters, stride=50)
        return heard.square().mean(2).add(1e-4).log()
"""


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write six speakers who say each of four labels twice, as tones; return the table."""
    folder = tmp_path_factory.mktemp("voices")
    draws = np.random.default_rng(3)
    time = np.arange(int(0.4 * RATE)) / RATE
    lines = ["path,label,speaker,gender"]
    for speaker in range(6):
        for number, label in enumerate(LABELS):
            for take in range(2):
                tone = np.sin(2 * np.pi * (300 + 900 * number + 20 * speaker + take) * time)
                path = f"s{speaker}-{label}-{take}.wav"
                audio.write(folder / path, 0.02 * tone + draws.normal(0, 0.02, len(time)), RATE)
                lines.append(f"{path},{label},s{speaker},{'female' if speaker % 2 else 'male'}")
    table = folder / "voices.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def selection(voices: Path, **changes: Any) -> Selection:
    return Selection(**{"corpus": str(voices), "groups": 3, "utterances": 8} | changes)


def settings(voices: Path, **changes: Any) -> AuditSettings:
    given = {
        "selection": selection(voices),
        "tier": "smoke",
        "budget": Budget(radius=RADIUS),
        "batch_size": 8,
    }
    return AuditSettings(**given | changes)


@pytest.fixture(scope="session")
def models(voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Recognisers with seeds of their own, taught the bands a little."""
    folder = tmp_path_factory.mktemp("models")
    made = {name: folder / name for name in ("twin", "other")}
    for seed, place in enumerate(made.values()):
        with global_seed(seed, "weights"):
            save_network(VGG16(classes=4, width=2), place, extra=EXTRA)
            _, material = gather(load_system(str(place)), selection(voices, utterances=None))
            save_network(_taught(material.x, material.y), place, extra=EXTRA)
    return made


def _taught(x: torch.Tensor, y: torch.Tensor) -> VGG16:
    network = VGG16(classes=4, width=2).train()
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    return network


@pytest.fixture(scope="session")
def own(models: Mapping[str, Path], voices: Path) -> Iterator[str]:
    """Yield the name of a module with a linear model of log-Mel and one of waveforms.

    The linear one compares with the mean log-Mel of each class.
    """
    folder = models["twin"].parent
    _, material = gather(load_system(str(models["twin"])), selection(voices, utterances=None))
    heard = material.x.mean(3)[:, 0]
    means = torch.stack([heard[material.y == k].mean(0) for k in range(4)])
    weight, bias = 20.0 * means, -10.0 * means.square().sum(1)
    np.savez(folder / "bands.npz", weight=weight.numpy(), bias=bias.numpy())
    (folder / "audited.py").write_text(CODE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "audited"
        sys.modules.pop("audited", None)


class Watching(Watcher):
    """Remembers which stages were computed and which were found done."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.cached: list[str] = []

    def finish(self, stage: str, *, cached: bool) -> None:
        (self.cached if cached else self.computed).append(stage)


Sets = Callable[..., Audit]


@pytest.fixture(scope="session")
def set_up(voices: Path, own: str) -> Sets:
    """Return a function that makes the audit of an audit into a folder."""

    def make(
        folder: Path,
        *,
        subject: System | None = None,
        defences: Sequence[str] = (),
        surrogates: Sequence[str] = (),
        **changes: Any,
    ) -> Audit:
        return Audit.of(
            settings(voices, **changes),
            subject or load_system(f"{own}:Bands"),
            defences=defences,
            surrogates=surrogates,
            folder=folder,
            origin={"servax": "test", "command": "servax audit", "versions": {"torch": "test"}},
        )

    return make


@dataclass(frozen=True)
class Done:
    """An audit that was run once for all tests."""

    audit: Audit
    audited: Audited
    watching: Watching


@pytest.fixture(scope="session")
def done(
    set_up: Sets, models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Done:
    """Audit two input transforms and a recogniser in the model's place, with one surrogate."""
    audit = set_up(
        tmp_path_factory.mktemp("audit") / "out",
        defences=("mean=mean-filter:3", "noisy=gaussian-noise:0.02", f"twin={models['twin']}"),
        surrogates=(f"other={models['other']}",),
    )
    watching = Watching()
    return Done(audit, run_audit(audit, fail_under=1.0, watcher=watching), watching)
