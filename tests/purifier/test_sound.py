"""Purified sound: same length, rate and level, for any rate and any length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import SettingError, ShapeError
from servax.features import (
    FrontEnd,
    FrontEndSettings,
    LogMelSettings,
    Scale,
    ScaleSettings,
    waveform_batch,
)
from servax.purifier import Mixture, Purifier, SoundPurifier
from servax.runtime.limiter import limited


class Lower(nn.Module):
    """Takes `by` away from every element of the log-Mel."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x - self.by


class DampHigh(nn.Module):
    """Takes 20 dB (.25 of an 80 dB window) away from the upper half of the Mel bins."""

    def forward(self, x: Tensor) -> Tensor:
        damped = x.clone()
        damped[:, :, 32:] -= 0.25
        return damped


def purifier(network: nn.Module) -> Purifier:
    return Purifier(network, Scale(ScaleSettings(top_db=40.0)), FrontEndSettings()).eval()


def voice(seconds: float, rate: int = 16_000) -> NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(0).normal(0, 0.2, len(time))
    return (0.05 * (tone + noise) * (1.2 + np.sin(2 * np.pi * 3 * time))).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.05, 1.0, 7.3])
def test_a_purifier_that_changes_nothing_gives_the_sound_back(rate: int, seconds: float) -> None:
    sound = voice(seconds, rate)
    cleaned = purifier(nn.Identity()).purify(sound, rate)
    assert cleaned.dtype == np.float32
    np.testing.assert_allclose(cleaned, sound, atol=1e-5)


def test_what_is_taken_from_all_bins_alike_is_level_and_comes_back() -> None:
    sound = voice(2.0)
    cleaned = purifier(Lower(0.01)).purify(sound, 16_000)
    np.testing.assert_allclose(cleaned, sound, atol=2e-3)


def test_the_change_is_heard_in_the_bins_it_was_made_in() -> None:
    sound = voice(3.0)
    cleaned = purifier(DampHigh()).purify(sound, 16_000)
    assert np.sqrt(np.mean(cleaned**2)) == pytest.approx(np.sqrt(np.mean(sound**2)), rel=1e-4)
    front_end = FrontEnd(FrontEndSettings(level_dbfs=None))
    before, after = (front_end(waveform_batch(s))[0, 0] for s in (sound, cleaned))
    change = (after - before).mean(dim=1)
    difference = float(change[:28].mean() - change[36:].mean())
    assert difference == pytest.approx(20.0, abs=2.0)


class Draw(nn.Module):
    """Changes what it hears by up to .1, differently for all it can hear."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.sin(40.0 * x.mean(dim=-1, keepdim=True))


@pytest.mark.parametrize("seconds", [5.9, 6.1, 9.0, 21.37])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_long_sound_is_the_faded_sum_of_its_windows(seconds: float, rate: int) -> None:
    cleaner, sound = purifier(Draw()), voice(seconds, rate)
    length = int(cleaner.clip_seconds * rate)
    hop, ahead = length // 2, length // 4
    stops = [*range(length, len(sound), hop), len(sound)] if len(sound) > length else [len(sound)]
    expected, before = np.zeros(len(sound)), np.ones(len(sound))
    # From the last window back: each takes what no later one wants, with a straight fade.
    for last, stop in zip([*stops[:-1][::-1], 0], stops[::-1], strict=True):
        start = max(0, stop - length)
        share = before.copy()
        share[stop:] = 0.0
        if last:
            first = last - ahead
            ramp = np.clip((np.arange(len(sound)) - first + 1) / (length // 8 + 1), 0, 1)
            share *= ramp
            before *= 1 - ramp
        piece = cleaner.purify(sound[start:stop], rate)
        expected[start:stop] += share[start:stop] * piece
    np.testing.assert_allclose(cleaner.purify(sound, rate), expected, atol=1e-5)


def test_the_differentiable_way_gives_the_same_sound() -> None:
    cleaner, sound = purifier(Draw()), voice(13.0)
    x = torch.from_numpy(sound).unsqueeze(0).requires_grad_()
    cleaned = SoundPurifier(cleaner, 16_000)(x)
    np.testing.assert_allclose(cleaned[0].detach(), cleaner.purify(sound, 16_000), atol=1e-5)
    cleaned.square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().min(dim=1).values) >= 0
    assert torch.isfinite(x.grad).all()


def rms(sound: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(sound.astype(np.float64) ** 2)))


@pytest.mark.parametrize("mixture", [Mixture(mix=0.25), Mixture(limit_db=20.0), Mixture(mix=0.0)])
def test_as_much_of_the_change_is_let_through_as_is_asked_for(mixture: Mixture) -> None:
    cleaner, sound = purifier(DampHigh()), voice(3.0)
    change = cleaner.difference(sound)
    if mixture.limit_db is None:
        expected = sound + mixture.mix * change
    else:
        expected = sound + change * (rms(sound) / rms(change) / 10.0)  # 20 dB are a factor of 10
    expected *= rms(sound) / rms(expected)
    found = cleaner.mixed(mixture).purify(sound, 16_000)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert cleaner.mixture == Mixture()
    x = torch.from_numpy(sound).unsqueeze(0).requires_grad_()
    through = SoundPurifier(cleaner.mixed(mixture), 16_000)(x)
    np.testing.assert_allclose(through[0].detach(), found, atol=1e-5)
    through.square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def full(seconds: float, rate: int = 16_000) -> NDArray[np.float32]:
    """Return a voice as of a loud recording: what a filter takes away lifts its peaks."""
    sound = voice(seconds, rate)
    return np.clip(6 * sound / np.abs(sound).max(), -1.0, 1.0).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.3, 13.0])
def test_a_sound_in_range_comes_out_in_range(rate: int, seconds: float) -> None:
    cleaner, sound = purifier(DampHigh()), full(seconds, rate)
    cleaned, told = cleaner.whole(sound, rate)
    assert told.samples > 0
    assert told.decibels > 0.3
    assert np.abs(cleaned).max() <= 1.0
    np.testing.assert_array_equal(cleaner.purify(sound, rate), cleaned)
    quiet, untouched = cleaner.whole(sound / 8, rate)
    assert untouched.samples == 0
    # The change depends on no level, so the limiter alone makes the difference.
    np.testing.assert_allclose(limited(8 * quiet, rate), cleaned, atol=1e-4)


def test_the_differentiable_way_limits_alike() -> None:
    for sound in (full(13.0), 1.7 * full(13.0)):
        cleaner = purifier(DampHigh())
        x = torch.from_numpy(sound).unsqueeze(0).requires_grad_()
        cleaned = SoundPurifier(cleaner, 16_000)(x)
        expected, told = cleaner.whole(sound, 16_000)
        assert told.samples > 0
        np.testing.assert_allclose(cleaned[0].detach(), expected, atol=5e-5)
        cleaned.square().sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


def test_streams_limit_alike() -> None:
    cleaner, sound = purifier(DampHigh()), full(14.2)
    for ahead in (0.25, 0.01, 0.0):
        stream = cleaner.stream(16_000, look_ahead_seconds=ahead)
        assert stream.latency_seconds == 0.5 + ahead
        whole = np.concatenate([stream.feed(sound), stream.finish()])
        assert np.abs(whole).max() <= 1.0
        assert stream.limited.samples > 0
        parts = cleaner.stream(16_000, look_ahead_seconds=ahead)
        given = [*(parts.feed(part) for part in np.array_split(sound, 211)), parts.finish()]
        np.testing.assert_array_equal(np.concatenate(given), whole)
    # What is given later equals the limited sum of the windows, all heard at once.
    stream = cleaner.stream(16_000)
    found = np.concatenate([stream.feed(sound), stream.finish()])
    total = np.zeros_like(sound)
    for start, stop, weights in stream.windows.weighted(len(sound)):
        total[start:stop] += weights * cleaner.clip_at(16_000)(sound[start:stop])
    steady = stream.windows.length + stream.windows.guard + stream.windows.hold
    np.testing.assert_allclose(found[steady:], limited(total, 16_000)[steady:], atol=1e-6)
    assert np.abs(total[steady:]).max() > 1.0


def test_a_sound_of_floats_keeps_its_own_peak() -> None:
    cleaner = purifier(DampHigh())
    for peak in (1.7, 32_767.0):
        sound = peak * full(2.0)
        cleaned = cleaner.purify(sound, 16_000)
        assert 0.9 * peak < np.abs(cleaned).max() <= peak * (1 + 1e-6)
        np.testing.assert_allclose(cleaned / peak, cleaner.purify(full(2.0), 16_000), atol=2e-3)


def test_refusals() -> None:
    cleaner = purifier(nn.Identity())
    with pytest.raises(ShapeError, match=r"waveform has shape \(16000, 2\), expected \(T,\) mono"):
        cleaner.purify(np.zeros((16_000, 2), dtype=np.float32), 16_000)
    with pytest.raises(ShapeError, match=r"expected \(T,\) mono samples with T >= 800"):
        cleaner.purify(np.zeros(799, dtype=np.float32), 16_000)
    with pytest.raises(
        SettingError, match=r"sample_rate is 0, expected a rate in \[1000, 768000\] Hz"
    ):
        cleaner.purify(np.zeros(16_000, dtype=np.float32), 0)
    with pytest.raises(
        SettingError, match="waveform is 'not finite', expected samples without NaN"
    ):
        cleaner.purify(np.full(16_000, np.nan, dtype=np.float32), 16_000)
    # Its square is no float32: what came out would be NaN.
    with pytest.raises(SettingError, match="loudest sample of waveform is"):
        cleaner.purify(np.full(16_000, 1e30, dtype=np.float32), 16_000)


def test_silence_stays_silence() -> None:
    silence = np.zeros(16_000, dtype=np.float32)
    assert not purifier(nn.Identity()).purify(silence, 16_000).any()


def test_a_natural_logarithm_means_the_same_sound() -> None:
    """The same window of levels in nepers of power: 10 / ln 10 dB each."""
    per_neper = 10.0 / np.log(10.0)
    scale = Scale(ScaleSettings(top_db=40.0 / per_neper, window_db=80.0 / per_neper))
    front_end = FrontEndSettings(LogMelSettings(logarithm="natural"))
    natural = Purifier(DampHigh(), scale, front_end).eval()
    sound = voice(2.0)
    expected = purifier(DampHigh()).purify(sound, 16_000)
    assert np.abs(expected - sound).max() > 0.05
    np.testing.assert_allclose(natural.purify(sound, 16_000), expected, atol=1e-4)
