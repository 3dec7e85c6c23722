"""A purifier on the z-score scale: saved, read again, and before sound."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from servax.errors import CheckpointError
from servax.features import FrontEnd, FrontEndSettings, LogMelSettings, ZScore, waveform_batch
from servax.models import FrameTransformer
from servax.purifier import Purifier

RATE = 16_000


class Lower(nn.Module):
    """Takes 1/6.67 of [0, 1], one standard deviation, away from the upper half of the Mel bins."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lowered = x.clone()
        lowered[:, :, 32:] -= 1 / 6.67
        return lowered


def voice(seconds: float) -> NDArray[np.float32]:
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(0).normal(0, 0.2, len(time))
    return (0.05 * (tone + noise) * (1.2 + np.sin(2 * np.pi * 3 * time))).astype(np.float32)


def fitted(front_end: FrontEndSettings) -> ZScore:
    with torch.no_grad():
        return ZScore.fit([FrontEnd(front_end)(waveform_batch(voice(3.0))).numpy()])


def test_it_comes_back_as_saved(tmp_path: Path) -> None:
    front_end = FrontEndSettings(logmel=LogMelSettings(mels=32), frames=40)
    network = FrameTransformer(mels=32, blocks=1, heads=4, feedforward=8)
    purifier = Purifier(network, fitted(front_end), front_end).eval()
    purifier.save_pretrained(tmp_path / "ssad")
    back = Purifier.from_pretrained(tmp_path / "ssad")
    assert isinstance(back.scale, ZScore)
    assert back.scale.settings == purifier.scale.settings
    np.testing.assert_array_equal(
        back.purify(voice(1.0), 16_000), purifier.purify(voice(1.0), 16_000)
    )

    path = tmp_path / "ssad" / "settings.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["extra"]["scale"]["mean"].pop()
    settings["extra"]["scale"]["sd"].pop()
    path.write_text(json.dumps(settings), encoding="utf-8")
    sentence = f"{path}: mean, sd is '31 Mel bins', expected the 32 of the front-end."
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        Purifier.from_pretrained(tmp_path / "ssad")


def test_the_change_is_heard_in_the_bins_it_was_made_in() -> None:
    scale, sound = fitted(FrontEndSettings()), voice(3.0)
    unchanged = Purifier(nn.Identity(), scale).eval().purify(sound, 16_000)
    np.testing.assert_allclose(unchanged, sound, atol=1e-5)
    cleaned = Purifier(Lower(), scale).eval().purify(sound, 16_000)
    front_end = FrontEnd(FrontEndSettings(level_dbfs=None))
    before, after = (front_end(waveform_batch(s))[0, 0] for s in (sound, cleaned))
    change = (after - before).mean(dim=1)
    difference = float(change[:28].mean() - change[36:].mean())
    expected = float(np.mean(scale.settings.sd[36:]))  # one standard deviation of those bins
    assert difference == pytest.approx(expected, rel=0.2)
