"""One table for all input transforms; below it, what is particular to those of log-Mel."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import nn

from servax.defences import (
    Codec,
    Defended,
    GaussianNoise,
    LowPass,
    MeanFilter,
    MedianFilter,
    NoiseWiener,
    Quantise,
    Resample,
    RNNoise,
    SpectralGate,
    SpectrogramMasking,
    WhiteNoise,
)
from servax.errors import ServaxError, SettingError, ShapeError


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Case:
    """A defence and what must be true of it."""

    build: Callable[[torch.Generator], nn.Module]
    knowledge: str
    random: bool = False
    low: float = 0.0
    """Lowest valid input: 0 for log-Mel, -1 for waveforms."""

    def inputs(self, dtype=torch.float32, margin=0.0):
        """Return inputs that fill their range but for a margin at both ends."""
        shape = (2, 1, 6, 9) if self.low == 0.0 else (2, 300)
        low, high = self.low + margin, 1.0 - margin
        return low + (high - low) * draw(*shape, dtype=dtype)


def waveform(build, knowledge="adaptive", random=False):
    return Case(build, knowledge, random, low=-1.0)


CASES = {
    "gaussian-noise": Case(lambda g: GaussianNoise(0.05, g), "adaptive", random=True),
    "mean-filter": Case(lambda g: MeanFilter(3), "adaptive"),
    "median-filter": Case(lambda g: MedianFilter(3), "adaptive"),
    "masking": Case(lambda g: SpectrogramMasking(3, 4, g, fill=0.1), "adaptive", random=True),
    "quantise": Case(lambda g: Quantise(4), "bpda"),
    "white-noise": waveform(lambda g: WhiteNoise(20.0, g), random=True),
    "resample": waveform(lambda g: Resample(16_000, 8_000, crossings=6)),
    "resample-ratio": waveform(lambda g: Resample(8_000, 6_000, crossings=6)),
    "low-pass": waveform(lambda g: LowPass(16_000, 3_000, taps=31)),
    "noise-wiener": Case(lambda g: NoiseWiener(20.0, g), "adaptive", random=True, low=-1.0),
    "mp3": waveform(lambda g: Codec(16_000, "mp3"), "bpda"),
    "vorbis": waveform(lambda g: Codec(16_000, "ogg-vorbis"), "bpda"),
    "opus": waveform(lambda g: Codec(16_000, "ogg-opus", 0.1), "bpda"),
    "rnnoise": waveform(lambda g: RNNoise(16_000), "bpda"),
    "noisereduce": waveform(lambda g: SpectralGate(16_000), "bpda"),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_type_and_range_are_kept_and_something_changes(case, dtype):
    x = case.inputs(dtype)
    before = x.clone()
    y = case.build(seeded(0))(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert y.min() >= case.low
    assert y.max() <= 1.0
    assert not torch.equal(y, x)
    assert torch.equal(x, before)


@every
def test_only_its_generator_makes_it_random(case):
    x = case.inputs()
    state = torch.random.get_rng_state()
    defence, same, other = (case.build(seeded(seed)) for seed in (7, 7, 8))
    first, second = defence(x), defence(x)
    assert torch.equal(same(x), first)
    assert torch.equal(same(x), second)
    assert torch.equal(first, second) is not case.random
    assert torch.equal(other(x), first) is not case.random
    assert torch.equal(torch.random.get_rng_state(), state)


@every
def test_each_utterance_is_treated_as_if_it_were_alone(case):
    x = case.inputs()
    if not case.random:
        defence = case.build(seeded(0))
        torch.testing.assert_close(defence(x)[1:], defence(x[1:]), rtol=1e-5, atol=1e-6)


@every
def test_what_it_says_of_its_gradient_is_true(case):
    x = case.inputs(torch.float64, margin=0.35).requires_grad_(True)
    defence = case.build(seeded(3))
    assert defence.knowledge == case.knowledge
    weights = draw(*x.shape, seed=1)
    (gradient,) = torch.autograd.grad((defence(x) * weights).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    if case.knowledge == "bpda":
        assert torch.equal(gradient, weights)
        return
    short = (x[:1] if case.low == 0.0 else x[:1, :40]).detach().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: case.build(seeded(3))(z), (short,))


@every
def test_no_parameter_and_no_buffer_is_saved(case):
    assert not case.build(seeded(0)).state_dict()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MeanFilter(2), "size is 2, expected an odd whole number."),
        (lambda: MeanFilter(-1), "size is -1, expected an odd whole number."),
        (lambda: MedianFilter(4), "size is 4, expected an odd whole number."),
        (lambda: Quantise(0), "bits is 0, expected a whole number in [1, 16]."),
        (lambda: Quantise(17), "bits is 17, expected a whole number in [1, 16]."),
        (
            lambda: GaussianNoise(0.0, seeded(0)),
            "standard_deviation is 0.0, expected a number in (0, 1].",
        ),
        (
            lambda: GaussianNoise(math.nan, seeded(0)),
            "standard_deviation is nan, expected a number in (0, 1].",
        ),
        (
            lambda: SpectrogramMasking(-1, 4, seeded(0)),
            "mels is -1, expected a whole number of at least 0.",
        ),
        (
            lambda: SpectrogramMasking(0, 0, seeded(0)),
            "mels, frames is (0, 0), expected at least one above 0, or nothing is hidden.",
        ),
        (
            lambda: SpectrogramMasking(1, 1, seeded(0), fill=-50.0),
            "fill is -50.0, expected a number in [0, 1].",
        ),
        (
            lambda: SpectrogramMasking(1, 1, seeded(0), bands=0),
            "bands is 0, expected a whole number of at least 1.",
        ),
        (
            lambda: WhiteNoise(math.nan, seeded(0)),
            "snr_db is nan, expected a ratio in [-20, 100] dB.",
        ),
        (
            lambda: LowPass(16_000, 8_000),
            "cutoff is 8000, expected a frequency in (0, 8000) Hz.",
        ),
        (
            lambda: LowPass(16_000, 100, taps=4),
            "taps is 4, expected an odd whole number of at least 3.",
        ),
        (
            lambda: LowPass(16, 4),
            "sample_rate is 16, expected a whole number of at least 1000 Hz.",
        ),
        (
            lambda: Resample(math.nan, 8_000),
            "sample_rate is nan, expected a whole number of at least 1000 Hz.",
        ),
        (
            lambda: Resample(16_000, 16_000),
            "down_to is 16000, expected a rate below sample_rate (16000 Hz).",
        ),
        (
            lambda: Resample(16_000, 7_999),
            "down_to is 7999, expected a rate whose greatest common divisor with 16000 Hz is at "
            "least 8 (it is 1).",
        ),
        (
            lambda: Resample(16_000, 8_000, rolloff=0.0),
            "rolloff is 0.0, expected a share in (0, 1].",
        ),
        (
            lambda: Resample(16_000, 8_000, crossings=0),
            "crossings is 0, expected a whole number of at least 1.",
        ),
        (
            lambda: Codec(16_000, "mp4"),
            "format is 'mp4', expected one of mp3, ogg-opus, ogg-vorbis. Did you mean 'mp3'?",
        ),
        (
            lambda: Codec(44_100, "ogg-opus"),
            "sample_rate is 44100, expected one that ogg-opus takes (8000, 12000, 16000, 24000, "
            "48000 Hz).",
        ),
        (lambda: Codec(16_000, "mp3", 1.5), "quality is 1.5, expected a number in [0, 1]."),
        (
            lambda: Codec(16_000)(torch.tensor([[0.0, math.nan]])),
            "x is 'not finite', expected samples without NaN or infinity.",
        ),
    ],
)
def test_settings_outside_their_rule_are_refused(build, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        build()


@pytest.mark.parametrize("name", ["median-filter", "masking", "noise-wiener", "mp3"])
def test_inputs_of_the_other_kind_are_refused(name):
    case = CASES[name]
    x = torch.zeros(2, 300) if case.low == 0.0 else torch.zeros(2, 1, 6, 9)
    expected = "log-Mel (B, 1, M, F)" if case.low == 0.0 else "waveforms (B, T)"
    sentence = f"x has shape {tuple(x.shape)}, expected {expected}."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        case.build(seeded(0))(x)


def test_a_missing_codec_is_refused(monkeypatch):
    monkeypatch.setattr("soundfile.available_subtypes", lambda container: {})
    with pytest.raises(ServaxError, match=r"^libsndfile \S+ has no mp3; install version 1\.1"):
        Codec(16_000, "mp3")


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_median_filter_is_scipys(size):
    x = draw(2, 1, 7, 12)
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, size, size), mode="nearest")
    np.testing.assert_array_equal(MedianFilter(size)(x).numpy(), expected)


def test_masks_are_bands_of_every_width_at_every_place():
    masking = SpectrogramMasking(3, 4, seeded(0), fill=0.0)
    hidden = (masking(torch.ones(400, 1, 8, 10)) == 0.0)[:, 0]
    mels, frames = hidden.all(2), hidden.all(1)
    # An element is hidden where its Mel bin or its frame is, and nowhere else.
    assert torch.equal(hidden, mels[:, :, None] | frames[:, None, :])
    for found, widest in ((mels, 3), (frames, 4)):
        starts = found.int().diff(dim=1, prepend=torch.zeros(400, 1, dtype=torch.int32)) == 1
        assert starts.sum(1).max() == 1
        assert set(found.sum(1).tolist()) == set(range(widest + 1))
        assert found.any(0).all()


def test_what_is_not_hidden_passes_and_what_is_has_no_gradient():
    x = (0.5 + 0.5 * draw(3, 1, 8, 10)).requires_grad_(True)
    masked = SpectrogramMasking(3, 4, seeded(2), fill=0.25, bands=2)(x)
    hidden = masked == 0.25
    assert 0 < hidden.sum() < hidden.numel()
    assert torch.equal(masked[~hidden], x[~hidden])
    (gradient,) = torch.autograd.grad(masked.sum(), x)
    assert torch.equal(gradient, (~hidden).double())


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_mean_filter_is_scipys(size):
    x = draw(2, 1, 7, 12)
    expected = ndimage.uniform_filter(x.numpy(), size=(1, 1, size, size), mode="nearest")
    np.testing.assert_allclose(MeanFilter(size)(x).numpy(), expected, atol=1e-12)


def test_mean_filter_by_hand():
    x = torch.tensor([[[[0.0, 0.0, 0.9], [0.0, 0.0, 0.0]]]])
    # The corner .9 stands four times in its own 3x3 neighbourhood: itself, right, above, both.
    assert MeanFilter(3)(x)[0, 0, 0].tolist() == pytest.approx([0.0, 0.2, 0.4])
    assert MeanFilter(3)(x)[0, 0, 1].tolist() == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("size", [3, 5])
def test_mean_filter_has_exact_gradients(size):
    assert torch.autograd.gradcheck(MeanFilter(size), (draw(1, 1, 4, 5).requires_grad_(True),))


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_quantise_rounds_to_its_levels(bits):
    levels = 2**bits - 1
    x = torch.linspace(0, 1, 5_001).view(1, 1, 3, -1)
    found = Quantise(bits)(x).numpy().astype(np.float64)
    steps = found * levels
    np.testing.assert_allclose(steps, np.round(steps), atol=levels * 1e-7)
    assert np.abs(found - x.numpy()).max() <= 0.5 / levels + 1e-7
    assert len(np.unique(np.round(steps))) == min(2**bits, 5_001)


def test_quantise_by_hand():
    x = torch.tensor([[[[0.0, 0.49, 0.51, 1.0]]]])
    assert Quantise(1)(x).flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
    levels = Quantise(2)(torch.tensor([[[[0.2, 0.6]]]])).flatten().tolist()
    assert levels == pytest.approx([1 / 3, 2 / 3])


def test_quantise_returns_the_levels_bit_for_bit():
    x = draw(1, 1, 100, 100, dtype=torch.float32)
    assert torch.equal(Quantise(4)(x), torch.round(x * 15) / 15)


def test_quantise_passes_the_gradient_as_the_identity_would():
    x = draw(1, 1, 3, 4).requires_grad_(True)
    weights = draw(1, 1, 3, 4, seed=1)
    (gradient,) = torch.autograd.grad((Quantise(4)(x) * weights).sum(), x)
    assert torch.equal(gradient, weights)


def test_noise_is_normal_with_its_standard_deviation():
    x = torch.full((1, 1, 64, 400), 0.5)
    noise = (GaussianNoise(0.05, seeded(0))(x) - x).flatten().numpy()
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    assert noise.mean() == pytest.approx(0.0, abs=0.001)
    assert stats.kstest(noise / 0.05, "norm").pvalue > 0.01


def test_noise_is_drawn_anew_at_each_call_and_repeats_with_its_seed():
    x = torch.full((1, 1, 4, 5), 0.5)
    defence, same = GaussianNoise(0.1, seeded(7)), GaussianNoise(0.1, seeded(7))
    first, second = defence(x), defence(x)
    assert not torch.equal(first, second)
    assert torch.equal(same(x), first)
    assert torch.equal(same(x), second)


def test_noisy_values_stay_in_0_to_1_and_gradients_pass_where_nothing_is_cut():
    x = torch.tensor([[[[0.0, 0.5, 1.0] * 50]]], requires_grad=True)
    noisy = GaussianNoise(0.05, seeded(1))(x)
    assert noisy.detach().min() == 0.0
    assert noisy.detach().max() == 1.0
    (gradient,) = torch.autograd.grad(noisy.sum(), x)
    cut = (noisy == 0.0) | (noisy == 1.0)
    assert torch.equal(gradient, (~cut).float())


def test_a_defended_model_is_the_defence_and_then_the_model():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 3)).double()
    defended = Defended(model, MeanFilter())
    x = draw(2, 1, 4, 5)
    assert torch.equal(defended(x), model(MeanFilter()(x)))
    assert torch.autograd.gradcheck(defended, (x.requires_grad_(True),))


def test_a_defended_model_follows_the_mode_of_the_whole():
    model = torch.nn.Sequential(torch.nn.Dropout())
    defended = Defended(model, MeanFilter()).eval()
    assert not model.training
    defended.train()
    assert model[0].training
