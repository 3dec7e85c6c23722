"""PGD on waveforms: closed forms on a linear model, what a file holds, budgets, refusals."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from servax import audio
from servax.attacks import WaveformPGD
from servax.errors import SettingError, ShapeError
from servax.features import FrontEnd, FrontEndSettings, Scale, ScaleSettings
from servax.models import VGG16, WaveformClassifier
from servax.perturbation import (
    Linf,
    PsychoacousticMask,
    SignalToNoise,
    into_16_bit,
)
from servax.runtime.samples import STEP_16_BIT

SAMPLES = 1_600
ENDS = [-1.0, 1.0 - STEP_16_BIT, 0.0]


class LinearOfSound(nn.Module):
    """Logits (w·x, -w·x): every attack on it has a closed form."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        score = x @ self.weight
        return torch.stack([score, -score], dim=1)


@pytest.fixture
def linear():
    draws = torch.Generator().manual_seed(0)
    return LinearOfSound(torch.randn(SAMPLES, generator=draws, dtype=torch.float64))


def sounds(batch=3, *, on_grid=True):
    draws = torch.Generator().manual_seed(1)
    loudness = torch.tensor([0.003, 0.05, 0.2])[:batch, None]
    x = (torch.randn(batch, SAMPLES, generator=draws) * loudness).clamp(-1, 1)
    x[:, :3] = torch.tensor(ENDS)
    return (into_16_bit(x) if on_grid else x).double()


def through_a_file(waveform, folder):
    audio.write(folder / "a.wav", waveform.float().numpy(), 16_000)
    return audio.read(folder / "a.wav")


@pytest.mark.parametrize("on_grid", [True, False])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("step", [0.5, 0.04])
@pytest.mark.parametrize("whole", [1.0, 2.5, 65.536])
def test_linf_on_a_linear_model_is_the_furthest_16_bit_sample(
    linear, tmp_path, on_grid, targeted, step, whole
):
    x = sounds(on_grid=on_grid)
    y = torch.zeros(3, dtype=torch.int64)
    epsilon = whole * STEP_16_BIT
    attack = WaveformPGD(epsilon=epsilon, step=step, steps=30, targeted=targeted)
    found = attack(linear, x, y)
    # Down the score of class 0, or up it: the last sample of the grid inside the ball.
    direction = np.sign(linear.weight.detach().numpy()) * (1 if targeted else -1)
    clean = x.numpy() * 32768
    up = np.minimum(np.floor(clean + whole), 32767)
    down = np.maximum(np.ceil(clean - whole), -32768)
    expected = np.where(direction > 0, up, down)
    if step * whole * 30 >= whole:  # the steps reach the surface
        assert np.array_equal(found.numpy() * 32768, expected)
    assert np.array_equal(through_a_file(found[1], tmp_path), found[1].float().numpy())


@pytest.mark.parametrize("on_grid", [True, False])
def test_a_ratio_on_a_linear_model_goes_along_the_weights(linear, tmp_path, on_grid):
    x = sounds(on_grid=on_grid)
    x[0, :3] = 0.0
    found = WaveformPGD(snr_db=30.0, steps=12)(linear, x, torch.zeros(3, dtype=torch.int64))
    weight = linear.weight.detach()
    for clean, moved in zip(x, found, strict=True):
        change = (moved - clean).numpy()
        epsilon = float(clean.norm()) / 10**1.5
        assert np.linalg.norm(change) <= epsilon * (1 + 1e-9)
        best = epsilon * float(weight.norm())  # Cauchy-Schwarz
        assert -float(weight @ (moved - clean)) > 0.97 * best
        assert np.array_equal(np.round(moved.numpy() * 32768), moved.numpy() * 32768)
        assert np.array_equal(through_a_file(moved, tmp_path), moved.float().numpy())


def test_small_steps_add_up_although_each_rounds_to_nothing(linear):
    x = sounds()
    y = torch.zeros(3, dtype=torch.int64)
    settings = {"epsilon": 4 * STEP_16_BIT, "step": 0.05}  # a fifth of a 16-bit step
    assert torch.equal(WaveformPGD(steps=1, **settings)(linear, x, y), x)
    moved = WaveformPGD(steps=20, **settings)(linear, x, y)
    assert float((moved - x).abs().amax()) == 4 * STEP_16_BIT


def test_without_rounding_it_is_plain_pgd(linear):
    x = sounds()
    found = WaveformPGD(epsilon=0.3 * STEP_16_BIT, sixteen_bit=False)(
        linear, x, torch.zeros(3, dtype=torch.int64)
    )
    expected = (x - 0.3 * STEP_16_BIT * linear.weight.detach().sign()).clamp(-1.0, 1.0)
    torch.testing.assert_close(found, expected)


# Through the front-end


@pytest.fixture(scope="module")
def recogniser():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = VGG16(width=2).eval()
    logmel = nn.Sequential(FrontEnd(FrontEndSettings(frames=40)), Scale(ScaleSettings(40.0)))
    return WaveformClassifier(logmel, network)


@pytest.fixture
def speech_sounds():
    time = torch.arange(8_000) / 16_000
    draws = torch.Generator().manual_seed(4)
    voice = sum(torch.sin(2 * math.pi * 140 * h * time + h) / h for h in range(1, 20))
    noise = torch.randn(2, 8_000, generator=draws)
    x = torch.stack([0.05 * voice, 0.02 * voice.flip(0)]) + 1e-3 * noise
    return into_16_bit(x), torch.tensor([0, 1])


CONFIGURATIONS = {
    "Linf": {"epsilon": 40 * STEP_16_BIT},
    "SNR": {"snr_db": 30.0},
    "Linf masked": {"epsilon": 40 * STEP_16_BIT, "masking": PsychoacousticMask(sample_rate=16_000)},
    "SNR masked": {"snr_db": 30.0, "masking": PsychoacousticMask(sample_rate=16_000)},
    "random start": {"snr_db": 30.0, "random_start": True},
}


@pytest.mark.parametrize("settings", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_each_iterate_is_16_bit_inside_its_budget_and_the_last_raises_the_loss(
    recogniser, speech_sounds, settings
):
    x, y = speech_sounds
    attack = WaveformPGD(steps=4, step=0.4, **settings)
    walk = list(attack.trajectory(recogniser, x, y, generator=torch.Generator().manual_seed(0)))
    assert len(walk) == 4
    clean = x.double().numpy()
    for moved in walk:
        assert np.array_equal(np.round(moved.double().numpy() * 32768), moved.numpy() * 32768.0)
        change = moved.double().numpy() - clean
        if attack.epsilon:
            assert np.abs(change).max() <= 40 * STEP_16_BIT
        else:
            ratio = 10 * np.log10((clean**2).sum(1) / (change**2).sum(1))
            assert (ratio >= 30.0 - 1e-4).all()
    with torch.no_grad():
        before, after = (
            nn.functional.cross_entropy(recogniser(v), y, reduction="none") for v in (x, walk[-1])
        )
    assert bool((after > before).all())


def test_a_target_is_reached(recogniser, speech_sounds):
    x, _ = speech_sounds
    head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 40, 4))
    draws = torch.Generator().manual_seed(6)
    nn.init.normal_(head[1].weight, std=0.1, generator=draws)
    recogniser = WaveformClassifier(recogniser.logmel, head)
    with torch.no_grad():
        before = recogniser(x).argmax(1)
    wanted = (before + 1) % 4
    found = WaveformPGD(snr_db=20.0, steps=30, targeted=True)(recogniser, x, wanted)
    with torch.no_grad():
        assert torch.equal(recogniser(found).argmax(1), wanted)


def test_silence_stays_and_its_neighbour_is_attacked(recogniser, speech_sounds):
    x, y = speech_sounds
    x = torch.stack([torch.zeros_like(x[0]), x[1]])
    found = WaveformPGD(snr_db=20.0, steps=2)(recogniser, x, y)
    assert bool((found[0] == 0).all())
    assert bool((found[1] != x[1]).any())


def test_masked_samples_stay_as_they_are(recogniser, speech_sounds):
    x, y = speech_sounds
    x[:, 6_000:] = 0.3 * STEP_16_BIT  # no 16-bit samples
    mask = torch.arange(8_000) < 6_000
    for settings in CONFIGURATIONS.values():
        attack = WaveformPGD(steps=2, **settings)
        generator = torch.Generator().manual_seed(0)
        found = attack(recogniser, x, y, generator=generator, mask=mask)
        assert torch.equal(found[:, 6_000:], x[:, 6_000:])
        assert bool((found != x).any(dim=1).all())


def test_the_mask_lowers_the_share_of_cells_that_can_be_heard(recogniser, speech_sounds):
    x, y = speech_sounds
    mask = PsychoacousticMask(sample_rate=16_000)
    plain, masked = (
        mask.share_above(x, WaveformPGD(snr_db=20.0, steps=5, masking=m)(recogniser, x, y))
        for m in (None, mask)
    )
    assert bool((masked < 0.7 * plain).all())


# Refusals


def test_its_ball():
    assert WaveformPGD(epsilon=0.1).ball == Linf(0.1)
    assert WaveformPGD(snr_db=20.0).ball == SignalToNoise(20.0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "(epsilon, snr_db) is (None, None), expected one of the two, the other None."),
        (
            {"epsilon": 0.1, "snr_db": 20.0},
            "(epsilon, snr_db) is (0.1, 20.0), expected one of the two, the other None.",
        ),
        (
            {"epsilon": 1e-5},
            "epsilon is 1e-05, expected a finite number at least 3.05176e-05 (1/32768, one step "
            "of 16 bits).",
        ),
        (
            {"epsilon": 0.0, "sixteen_bit": False},
            "epsilon is 0.0, expected a finite number above 0.",
        ),
        (
            {"snr_db": math.nan},
            "the signal-to-noise ratio is nan, expected a finite number of dB.",
        ),
        ({"snr_db": 20.0, "step": 0.0}, "step is 0.0, expected a finite number above 0."),
        ({"snr_db": 20.0, "steps": 0}, "steps is 0, expected a whole number of at least 1."),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        WaveformPGD(**settings)


def test_spectrograms_and_sounds_too_quiet_for_16_bits_are_refused(linear):
    y = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"^x has shape \(1, 1, 4, 4\), expected waveforms"):
        WaveformPGD(snr_db=20.0)(linear, torch.zeros(1, 1, 4, 4), y)
    x = torch.full((1, SAMPLES), 0.4 * STEP_16_BIT, dtype=torch.float64)
    with pytest.raises(SettingError, match=r"^the budget of utterance 0 is '0\.1 of"):
        WaveformPGD(snr_db=20.0)(linear, x, y)
