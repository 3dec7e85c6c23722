from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
from sound_distances import log_spectral_distance, segmental_signal_to_noise_ratio

from servax.errors import SettingError, ShapeError


def pair(*shape):
    draws = np.random.default_rng(0)
    x = draws.normal(0, 0.1, shape)
    return x, x + draws.normal(0, 1e-3, shape)


def test_a_segmental_ratio_is_the_mean_of_clamped_ratios():
    x, moved = pair(2, 330)
    x[:, 100:200] = moved[:, 100:200] = 0.0  # digital silence that stays
    moved[0, 210] += 5.0
    expected = []
    for clean, changed in zip(x, moved, strict=True):
        values = []
        for start in (0, 200):
            piece = slice(start, start + 100)
            noise = np.sum((changed[piece] - clean[piece]) ** 2)
            values.append(np.clip(10 * np.log10(np.sum(clean[piece] ** 2) / noise), -10, 35))
        expected.append(np.mean(values))
    got = segmental_signal_to_noise_ratio(
        torch.from_numpy(x), torch.from_numpy(moved), segment_samples=100
    )
    np.testing.assert_allclose(got, expected)
    assert expected[1] == 35.0
    silent = torch.zeros(1, 300)
    assert segmental_signal_to_noise_ratio(silent, silent, segment_samples=100).isnan().all()


def test_segments_that_are_none_are_refused():
    x = torch.zeros(2, 10)
    with pytest.raises(SettingError, match=r"^segment_samples is 11, expected a length in \[1, 10"):
        segmental_signal_to_noise_ratio(x, x, segment_samples=11)
    cube = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ShapeError, match=r"^x has shape \(2, 1, 4, 4\), expected waveforms \(B, T"):
        segmental_signal_to_noise_ratio(cube, cube, segment_samples=1)


@pytest.mark.parametrize("range_db", [60.0, 20.0])
def test_the_log_spectral_distance_is_that_of_scipy(range_db):
    x, moved = pair(3, 4000)
    expected = []
    for before, after in zip(x, moved, strict=True):
        power = [
            np.abs(scipy.signal.stft(s, nperseg=512, boundary=None, padded=False)[2]) ** 2
            for s in (before, after)
        ]
        floor = power[0].max() * 10 ** (-range_db / 10)
        a, b = (10 * np.log10(np.maximum(p, floor)) for p in power)
        expected.append(np.mean([np.sqrt(np.mean((a[:, f] - b[:, f]) ** 2)) for f in range(14)]))
    got = log_spectral_distance(*map(torch.from_numpy, (x, moved)), range_db=range_db)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_gain_is_its_own_log_spectral_distance_and_silence_has_none():
    x = torch.from_numpy(pair(2, 2000)[0])
    got = log_spectral_distance(x, 2 * x, range_db=200.0)
    np.testing.assert_allclose(got, 20 * math.log10(2), rtol=1e-6)
    assert log_spectral_distance(torch.zeros(1, 600), torch.zeros(1, 600)).tolist() == [0.0]


def test_refusals_of_the_log_spectral_distance():
    x = torch.zeros(1, 600)
    with pytest.raises(SettingError, match="range_db is 0, expected a number of dB above 0"):
        log_spectral_distance(x, x, range_db=0)
    with pytest.raises(ShapeError, match=r"moved has shape \(1, 599\), expected \(1, 600\)"):
        log_spectral_distance(x, x[:, 1:])
