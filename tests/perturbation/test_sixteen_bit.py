from __future__ import annotations

import io
import re

import numpy as np
import pytest
import soundfile
import torch

from servax.errors import SettingError
from servax.perturbation import SignalToNoise, into_16_bit, straight_through
from servax.perturbation.rounding import into_16_bit_within, shrunk_into
from servax.runtime.samples import STEP_16_BIT


def through_a_file(waveform):
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", subtype="PCM_16")
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def test_nearest_samples_are_those_of_a_file():
    waveform = torch.linspace(-1.2, 1.2, 100_001)
    samples = into_16_bit(waveform)
    whole = np.round(waveform.double().numpy() * 32768).clip(-32768, 32767)
    assert np.array_equal(samples.double().numpy() * 32768, whole)
    assert np.array_equal(through_a_file(samples.numpy()), samples.numpy())


@pytest.mark.parametrize("steps", [1.0, 2.5, 66.0])
def test_nearest_within_is_the_best_of_all_samples_that_are_near_enough(steps):
    draws = np.random.default_rng(0)
    x = np.concatenate([draws.uniform(-1, 1, 40), [-1.0, 1.0, 0.5, -0.25]]).astype(np.float32)
    moved = x + draws.uniform(-1.5, 1.5, x.size).astype(np.float32) * np.float32(
        steps * STEP_16_BIT
    )
    grid = np.arange(-32768, 32768) / 32768
    expected = []
    for clean, wanted in zip(x.astype(float), moved.astype(float), strict=True):
        allowed = grid[np.abs(grid - clean) <= steps * STEP_16_BIT]
        expected.append(allowed[np.abs(allowed - wanted).argmin()])
    got = into_16_bit_within(
        torch.from_numpy(x)[None], torch.from_numpy(moved)[None], steps * STEP_16_BIT
    )
    assert got[0].tolist() == expected


def test_the_gradient_goes_straight_through():
    x = torch.tensor([[0.3, -0.7]], requires_grad=True)
    out = straight_through(x, into_16_bit(x.detach()))
    assert torch.equal(out, into_16_bit(x.detach()))
    (gradient,) = torch.autograd.grad((out * torch.tensor([2.0, -5.0])).sum(), x)
    assert gradient.tolist() == [[2.0, -5.0]]


@pytest.mark.parametrize("on_grid", [True, False])
def test_a_rounded_change_fills_its_ball_and_does_not_leave_it(on_grid):
    draws = torch.Generator().manual_seed(0)
    x = 0.01 * torch.randn(3, 2_000, generator=draws)
    x = into_16_bit(x) if on_grid else x
    change = torch.randn(3, 2_000, generator=draws)
    ball = SignalToNoise(40.0).around(x)
    moved = x + ball.project(change)
    found = shrunk_into(x, moved, ball, into_16_bit)
    assert torch.equal(found, into_16_bit(found))
    size = np.linalg.norm((found - x).double().numpy(), axis=1)
    radius = np.linalg.norm(x.double().numpy(), axis=1) / 100
    assert (size <= radius * (1 + 1e-6)).all()
    assert (size > 0.97 * radius).all()
    # What rounds into the ball as it is, is only rounded.
    wide = SignalToNoise(10.0).around(x)
    assert torch.equal(shrunk_into(x, moved, wide, into_16_bit), into_16_bit(moved))


def test_a_ball_without_16_bit_samples_is_refused():
    x = torch.full((2, 500), 0.4 * STEP_16_BIT)
    x[0] = 0.1
    ball = SignalToNoise(20.0).around(x)
    sentence = (
        "the budget of utterance 1 is '0.1 of what rounding it to 16 bits takes', expected at "
        "least 1: allow a larger change, or switch off sixteen_bit."
    )
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        shrunk_into(x, x, ball, into_16_bit)
