"""The limiter: nothing above its ceiling, not a bit changed below it, whatever the chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from servax.runtime.limiter import TARGET, Limited, Limiter, lengths, limited
from servax.runtime.samples import STEP_16_BIT
from servax.runtime.stream import SoundStream, SoundWindows

Sound = NDArray[np.float32]


def loud(peak: float, total: int = 4_000, seed: int = 0) -> Sound:
    draws = np.random.default_rng(seed)
    sound = draws.normal(0, 0.2, total) * (1 + np.sin(np.arange(total) / 300.0))
    return (sound * peak / np.abs(sound).max()).astype(np.float32)


def transcribed(sound: Sound, look_ahead: int, hold: int, ceiling: float = 1.0) -> Sound:
    """Return what the formulae say, sample by sample."""
    beyond = np.maximum(np.abs(sound.astype(float)) / ceiling - STEP_16_BIT, 1.0)
    r = np.maximum(TARGET, 1.5 - beyond / 2) / beyond
    # Beyond both ends there is silence.
    padded = np.concatenate([np.ones(hold + look_ahead), r, np.ones(look_ahead)])
    m = [padded[i : i + hold + look_ahead + 1].min() for i in range(len(sound) + look_ahead)]
    first, second = look_ahead // 2 + 1, look_ahead - look_ahead // 2 + 1
    weights = np.convolve(np.ones(first) / first, np.ones(second) / second)
    g = np.array([weights @ m[n : n + look_ahead + 1] for n in range(len(sound))])
    return np.clip(sound * g, -ceiling, ceiling).astype(np.float32)


def through(sound: Sound, limiter: Limiter, sizes: list[int], ceiling: float = 1.0) -> Sound:
    cuts = np.cumsum(np.resize(sizes, 1 + len(sound) // min(sizes)))
    parts = np.split(sound, cuts[cuts < len(sound)])
    return np.concatenate([*(limiter.feed(part, ceiling) for part in parts), limiter.finish()])


@pytest.mark.parametrize(("look_ahead", "hold"), [(0, 0), (0, 7), (1, 0), (40, 100), (320, 800)])
@pytest.mark.parametrize("peak", [1.0001, 1.004, 1.3, 2.3, 40.0])
def test_it_is_the_formula_and_stays_below_the_ceiling(
    look_ahead: int, hold: int, peak: float
) -> None:
    sound = loud(peak)
    limiter = Limiter(look_ahead, hold)
    found = through(sound, limiter, [len(sound)])
    assert np.abs(found).max() <= 1.0
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, transcribed(sound, look_ahead, hold), atol=1e-6)
    told = limiter.limited
    lowered = np.abs(sound) - np.abs(found) > 1e-5
    assert told.samples >= np.count_nonzero(lowered)
    wanted = 20 * math.log10(peak / max(TARGET, 1.5 - peak / 2))
    assert told.decibels == pytest.approx(wanted, abs=1e-3)
    np.testing.assert_array_equal(np.sign(found), np.sign(sound))


@pytest.mark.parametrize("sizes", [[1], [160], [1, 900, 33], [100_000]])
def test_chunks_change_no_bit(sizes: list[int]) -> None:
    sound = loud(1.9)
    whole = through(sound, Limiter(40, 100), [len(sound)])
    limiter = Limiter(40, 100)
    np.testing.assert_array_equal(through(sound, limiter, sizes), whole)
    assert len(whole) == len(sound)


@pytest.mark.parametrize("peak", [0.0, 0.3, 1.0, 1.0 + 0.9 * STEP_16_BIT])
def test_what_is_within_range_keeps_every_bit(peak: float) -> None:
    sound = loud(peak)
    limiter = Limiter(40, 100)
    found = through(sound, limiter, [333])
    np.testing.assert_array_equal(found, np.clip(sound, -1.0, 1.0))
    assert limiter.limited == Limited(0, 0.0)


def test_far_from_a_peak_nothing_changes() -> None:
    sound = loud(0.8, 20_000)
    sound[9_000] = -1.7
    found = through(sound, Limiter(320, 800), [512])
    same = found == sound
    assert np.flatnonzero(~same).min() >= 9_000 - 320
    assert np.flatnonzero(~same).max() <= 9_000 + 800 + 320
    assert found[9_000] == pytest.approx(-TARGET, rel=1e-4)
    # The gain never jumps: a step of it would click.
    gain = found[9_000 - 400 : 9_000 + 1_200] / sound[9_000 - 400 : 9_000 + 1_200]
    assert np.abs(np.diff(gain)).max() < 2.5 * (1 - TARGET / 1.7) / 320


def test_a_ceiling_beyond_full_scale_is_that_of_floats() -> None:
    sound = loud(32_767.0)
    found = through(1.5 * sound, Limiter(40, 100), [77], ceiling=32_767.0)
    assert np.abs(found).max() <= 32_767.0
    assert np.abs(found).max() > 0.98 * 32_767.0
    np.testing.assert_allclose(
        found / 32_767.0, through(1.5 * sound / 32_767, Limiter(40, 100), [77]), atol=1e-5
    )


def test_a_resampled_sound_is_brought_back() -> None:
    sound = loud(1.08)
    assert lengths(16_000) == (320, 800)
    np.testing.assert_array_equal(limited(sound, 16_000), through(sound, Limiter(320, 800), [50]))


def test_what_was_changed_in_several_channels() -> None:
    both = Limited.together([Limited(3, 0.5), Limited(4, 2.0)])
    assert (both, Limited.together([])) == (Limited(7, 2.0), Limited())


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("guard", [0, 30])
def test_a_stream_gives_nothing_above_full_scale_and_counts(live: bool, guard: int) -> None:
    windows = SoundWindows(1_000, hop=500, look_ahead=250, fade=125, guard=guard, hold=80)
    sound = loud(1.0, 9_876)
    stream = SoundStream(lambda window: 2.0 * window, windows, 1, live=live)
    found = np.concatenate([stream.feed(sound), stream.finish()])
    assert len(found) == len(sound)
    assert np.abs(found).max() <= 1.0
    assert stream.limited.decibels == pytest.approx(20 * math.log10(2 / TARGET), abs=0.01)
    # The steps of a window and of the limiter are one after the other.
    np.testing.assert_allclose(found, transcribed(2 * sound, guard, 80), atol=1e-5)
    parts = SoundStream(lambda window: 2.0 * window, windows, 1, live=live)
    given = [*(parts.feed(part) for part in np.array_split(sound, 97)), parts.finish()]
    np.testing.assert_array_equal(np.concatenate(given), found)


def test_a_stream_keeps_the_peak_of_floats() -> None:
    windows = SoundWindows(1_000, hop=500, look_ahead=250, fade=125, guard=30, hold=80)
    sound = loud(20_000.0, 9_876)
    same = SoundStream(lambda window: window, windows, 1)
    given = np.concatenate([same.feed(sound), same.finish()])
    np.testing.assert_allclose(given, sound, rtol=1e-6)
    twice = SoundStream(lambda window: 2.0 * window, windows, 1)
    given = np.concatenate([twice.feed(sound), twice.finish()])
    assert 0.9 * 20_000 < np.abs(given).max() <= 20_000
