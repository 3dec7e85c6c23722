"""The masking threshold against ART's, its choice of maskers against a slow transcription."""

from __future__ import annotations

import importlib
import math
import re
import warnings

import numpy as np
import pytest
import torch

from servax.errors import SettingError, ShapeError
from servax.perturbation import Linf, PsychoacousticMask
from servax.perturbation.masking import Inaudible, find_maskers

MASK = PsychoacousticMask(sample_rate=16_000, window_samples=512, hop_samples=128)


def tones(samples=4_000, seed=0):
    """Return three tones with noise, then a pause."""
    time = np.arange(samples) / 16_000
    sound = sum(
        a * np.sin(2 * math.pi * f * time) for a, f in [(0.2, 440), (0.05, 900), (0.1, 3e3)]
    )
    sound = sound + 1e-3 * np.random.default_rng(seed).normal(size=samples)
    sound[samples // 2 :] *= 1e-3
    return torch.from_numpy(sound[None].astype(np.float32))


def bark_of(hertz):
    return 13 * math.atan(0.00076 * hertz) + 3.5 * math.atan((hertz / 7500) ** 2)


def quiet_of(hertz):
    if hertz < 20:
        return -math.inf
    khz = hertz / 1000
    return 3.64 * khz**-0.8 - 6.5 * math.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4 - 12


def slow_filter(levels, places, quiet):
    """Keep maskers that are heard in quiet; of two within .5 Bark the louder, left to right."""
    left = [i for i in range(len(levels)) if levels[i] > quiet[i]]
    i = 0
    while i + 1 < len(left):
        if places[left[i + 1]] - places[left[i]] < 0.5:
            del left[i if levels[left[i]] < levels[left[i + 1]] else i + 1]
        else:
            i += 1
    return left


@pytest.fixture(scope="module")
def art():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = "art.attacks.evasion.imperceptible_asr.imperceptible_asr"
        return importlib.import_module(package).PsychoacousticMasker


def test_the_threshold_is_arts_but_for_its_distances_between_maskers(art):
    class Masker(art):
        def filter_maskers(self, maskers, masker_idx):
            hertz = self.fft_frequencies[masker_idx]
            kept = slow_filter(maskers, [bark_of(f) for f in hertz], [quiet_of(f) for f in hertz])
            return maskers[kept], masker_idx[kept]

    x = tones()
    padded = np.pad(x[0].numpy(), 256)
    masker = Masker(window_size=512, hop_size=128, sample_rate=16_000)
    threshold, loudest = masker.calculate_threshold_and_psd_maximum(padded)
    limits = MASK.around(x).limits[0].double().numpy()
    # A magnitude as the level in dB that ART gives a change (its loss for imperceptibility).
    level = 20 * np.log10(np.sqrt(8 / 3) * limits / 512) + 96 - loudest
    assert level.shape == threshold.shape == (257, 32)
    np.testing.assert_allclose(level, threshold, atol=0.02)


def test_maskers_are_chosen_as_by_a_slow_transcription():
    draws = np.random.default_rng(1)
    hertz = np.linspace(0, 8_000, 257)
    for _ in range(20):
        level = draws.normal(0, 15, 257)
        peaks = [i for i in range(1, 256) if level[i] > max(level[i - 1], level[i + 1])]
        sums = [10 * math.log10(sum(10 ** (level[i + j] / 10) for j in (-1, 0, 1))) for i in peaks]
        kept = slow_filter(
            sums, [bark_of(hertz[i]) for i in peaks], [quiet_of(hertz[i]) for i in peaks]
        )
        bins, levels = find_maskers(level, hertz)
        assert bins.tolist() == [peaks[i] for i in kept]
        np.testing.assert_allclose(levels, [sums[i] for i in kept])


def test_the_projection_brings_noise_nearly_under_the_threshold_and_leaves_what_is_under_it():
    x = tones()
    threshold = MASK.around(x)
    noise = 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    before, after = (float(threshold.share_above(n)) for n in (noise, threshold.project(noise)))
    assert before > 0.4
    assert after < 0.25 * before
    faint = 1e-9 * noise
    assert float(threshold.share_above(faint)) == 0.0
    torch.testing.assert_close(threshold.project(faint), faint, atol=1e-16, rtol=1e-4)
    assert float(MASK.share_above(x, x + noise)) == pytest.approx(before, abs=0.01)


def test_the_ball_has_the_last_word():
    x = tones()
    reach = Inaudible(Linf(1e-4), MASK.around(x))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    assert float(reach.norm(reach.project(noise))) <= 1e-4
    drawn = reach.sample(x, torch.Generator().manual_seed(0))
    assert 0 < float(drawn.abs().max()) <= 1e-4
    assert reach.radius == 1e-4


def test_each_sound_of_a_batch_has_its_own_threshold_and_silence_has_one():
    x, other = tones(seed=0), 0.1 * tones(seed=1)
    both = MASK.around(torch.cat([x, other, torch.zeros_like(x)])).limits
    assert torch.equal(both[:1], MASK.around(x).limits)
    assert torch.equal(both[1:2], MASK.around(other).limits)
    assert bool(both.isfinite().all())
    assert float(both[2].max()) < 1e-5  # beside digital silence nothing is masked


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sample_rate": 16}, "sample_rate is 16, expected a rate of at least 1000 Hz."),
        ({"window_samples": 513}, "window_samples is 513, expected an even number from 16 up."),
        ({"hop_samples": 1_025}, "hop_samples is 1025, expected in [1, 1024]."),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        PsychoacousticMask(**{"sample_rate": 16_000, **settings})


def test_spectrograms_are_refused():
    with pytest.raises(ShapeError, match=r"^x has shape \(1, 1, 64, 9\), expected waveforms"):
        MASK.around(torch.zeros(1, 1, 64, 9))


def test_the_rate_has_no_default():
    with pytest.raises(TypeError, match="sample_rate"):
        PsychoacousticMask()
