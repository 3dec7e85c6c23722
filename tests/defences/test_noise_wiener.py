"""Noise and the filter that knows it: the textbook's loop, torch and NumPy give one result."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy import signal

from servax import runtime
from servax.defences import NoiseWiener
from servax.errors import SettingError, ShapeError

LENGTHS = [(16_000, 1), (16_000, 9_001), (8_000, 640), (44_100, 5_000)]


def voice(length, rate=16_000):
    """Return a harmonic sound that comes and goes, (T,), float64."""
    time = np.arange(length) / rate
    partials = sum(np.cos(2 * np.pi * 140 * k * time + k * k) / k for k in range(1, 12))
    return 0.1 * partials * (1.0 + 0.9 * np.sin(2 * np.pi * 5 * time)) ** 2


def drawn(defence, length, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(defence.covered(length), dtype=dtype)


def build(snr_db, rate=16_000, seed=0):
    return NoiseWiener(snr_db, torch.Generator().manual_seed(seed), rate)


def textbook(x, noise, snr_db, rate):
    """Return Ephraim & Malah 1984, equations 51 and 53, with Wiener's gain, bin by bin.

    Spectra are those of scipy, which divides them by the sum of the window.
    """
    hop = 8 * round(rate / 1_000)
    window = signal.get_window("hann", 4 * hop)
    sigma = np.sqrt(np.mean(x**2)) * 10 ** (-snr_db / 20) * np.sqrt(rate / 16_000)
    clean = np.zeros(len(noise))
    clean[3 * hop : 3 * hop + len(x)] = x
    cut = {"window": window, "nperseg": 4 * hop, "noverlap": 3 * hop, "boundary": None}
    y = signal.stft(clean + sigma * noise, padded=False, **cut)[2]
    noise_power = sigma**2 * np.sum(window**2) / np.sum(window) ** 2
    cleaned = np.zeros_like(y)
    for k in range(y.shape[0]):
        amplitude = math.sqrt(noise_power)
        for n in range(y.shape[1]):
            post = abs(y[k, n]) ** 2 / noise_power
            prior = 0.98 * amplitude**2 / noise_power + 0.02 * max(post - 1, 0)
            gain = max(prior / (1 + prior), 0.1)
            cleaned[k, n] = gain * y[k, n]
            amplitude = abs(cleaned[k, n])
    back, weight = np.zeros(len(noise)), np.zeros(len(noise))
    for n in range(y.shape[1]):
        frame = slice(n * hop, (n + 4) * hop)
        back[frame] += window * np.fft.irfft(cleaned[:, n] * np.sum(window), 4 * hop)
        weight[frame] += window**2
    inside = slice(3 * hop, 3 * hop + len(x))
    return back[inside] / weight[inside]


@pytest.mark.parametrize(("rate", "length"), LENGTHS)
@pytest.mark.parametrize("snr_db", [20.0, 5.0])
def test_it_is_the_textbooks_filter(rate, length, snr_db):
    x, defence = voice(length, rate), build(snr_db, rate)
    noise = drawn(defence, length)
    found = defence.filtered(torch.from_numpy(x)[None], torch.from_numpy(noise)[None])
    np.testing.assert_allclose(found[0], textbook(x, noise, snr_db, rate), rtol=0, atol=1e-11)


def test_a_call_draws_the_noise_and_stays_within_full_scale():
    x = torch.from_numpy(np.stack([voice(3_000), 3.0 * voice(3_000)]))
    shape = (2, build(20.0).covered(3_000))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    expected = build(20.0).filtered(x, noise)
    assert expected.abs().max() > 1.0
    torch.testing.assert_close(build(20.0, seed=4)(x), expected.clamp(-1.0, 1.0))


def test_gradients_are_exact():
    defence = build(10.0, 1_000)
    x = torch.from_numpy(voice(50, 1_000))[None].requires_grad_()
    noise = torch.from_numpy(drawn(defence, 50))[None]
    assert torch.autograd.gradcheck(lambda z: defence.filtered(z, noise), (x,))


def test_silence_has_a_gradient_and_stays_below_hearing():
    x = torch.zeros(1, 2_000, requires_grad=True)
    y = build(20.0)(x)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    assert y.abs().max() < 1e-6


def test_it_removes_most_of_the_noise_it_adds():
    x = torch.from_numpy(voice(16_000))[None]
    noise = torch.from_numpy(drawn(build(20.0), 16_000))[None]
    left = build(20.0).filtered(x, noise) - x
    assert 10 * torch.log10(x.square().sum() / left.square().sum()) > 24.0


@pytest.mark.parametrize("sizes", [[160], [1, 3_000, 77], [100_000]])
@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(("rate", "length"), [(16_000, 9_001), (44_100, 5_000)])
def test_a_stream_gives_what_torch_gives_whatever_the_chunks(rate, length, live, sizes):
    x = voice(length, rate).astype(np.float32)
    defence, cleaner = build(20.0, rate), runtime.NoiseWiener(20.0, np.random.default_rng(3))
    noise = torch.from_numpy(drawn(defence, length, 3, np.float32))[None]
    expected = defence.filtered(torch.from_numpy(x)[None], noise)[0].numpy()
    level_dbfs = 20 * np.log10(np.sqrt(np.mean(x.astype(np.float64) ** 2)))
    stream = cleaner.stream(rate, level_dbfs=level_dbfs) if live else cleaner.whole_stream(rate)
    found, heard, given = [], 0, 0
    for end in np.minimum(np.cumsum(np.resize(sizes, 1 + length // min(sizes))), length):
        if end > heard:
            found.append(stream.feed(x[heard:end]))
            heard, given = end, given + len(found[-1])
            assert not live or heard - given <= stream.latency_seconds * rate + 0.5
    found.append(stream.finish())
    assert stream.latency_seconds < 0.06
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-6)


def test_the_first_half_minute_says_the_level_of_a_long_sound():
    x = voice(31 * 1_000, 1_000)
    x[30_000:] *= 20.0
    defence, cleaner = build(20.0, 1_000), runtime.NoiseWiener(20.0, np.random.default_rng(0))
    noise = drawn(defence, len(x), 0, np.float32).astype(np.float64)
    expected = defence.filtered(torch.from_numpy(x)[None], torch.from_numpy(noise)[None])[0]
    quiet, found = expected[:29_000], cleaner.purify(x, 1_000)[:29_000]
    np.testing.assert_allclose(found, quiet, rtol=0, atol=1e-6)
    alone = textbook(x[:30_000], noise[: defence.covered(30_000)], 20.0, 1_000)
    np.testing.assert_allclose(quiet, alone[:29_000], rtol=0, atol=1e-9)


def test_full_sound_stays_within_full_scale_and_only_a_seed_makes_it_the_same():
    x = np.sign(voice(4_000)).astype(np.float32)
    seeded = [runtime.NoiseWiener(10.0, np.random.default_rng(1)) for _ in range(2)]
    first, second = (each.whole(x, 16_000) for each in seeded)
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[0]).max() <= 1.0
    assert first[1].samples > 0
    unforeseen = [runtime.NoiseWiener(10.0).purify(x, 16_000) for _ in range(2)]
    assert not np.array_equal(*unforeseen)
    assert not np.array_equal(seeded[0].purify(x, 16_000), first[0])


def test_a_stream_of_nothing_gives_nothing():
    cleaner = runtime.NoiseWiener(20.0)
    for stream in (cleaner.whole_stream(16_000), cleaner.stream(16_000, level_dbfs=-26.0)):
        assert len(stream.finish()) == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build(61.0), "snr_db is 61.0, expected a number in [0, 60] dB."),
        (
            lambda: runtime.NoiseWiener(math.nan),
            "snr_db is nan, expected a number in [0, 60] dB.",
        ),
        (
            lambda: runtime.NoiseWiener(20.0).stream(16_000, level_dbfs=3.0),
            "level_dbfs is 3.0, expected a number in [-120, 0] dBFS.",
        ),
        (
            lambda: runtime.NoiseWiener.named("noise-wiener:loud"),
            "purifier is 'noise-wiener:loud', expected noise-wiener:SNR, a number in [0, 60] dB, "
            "as noise-wiener:20.",
        ),
        (
            lambda: build(20.0).filtered(torch.zeros(1, 100), torch.zeros(1, 100)),
            "noise has shape (1, 100), expected (1, 896) for this sound.",
        ),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises((SettingError, ShapeError), match=f"^{re.escape(sentence)}$"):
        call()
