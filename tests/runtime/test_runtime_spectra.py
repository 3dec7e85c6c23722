"""Spectra in NumPy are those of torch, for every front-end that servax can be trained with."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from servax import audio
from servax.errors import SettingError
from servax.features import (
    LogMel,
    LogMelSettings,
    Scale,
    ScaleSettings,
    ZScore,
    ZScoreSettings,
    apply_change,
)
from servax.features.resynthesis import bin_weights
from servax.runtime import rules, settings, spectra, windows

FRONT_ENDS: list[dict[str, Any]] = [
    {},
    {"window": "hamming", "spectrum": "magnitude", "mel_scale": "slaney", "f_min": 20.0},
    {"logarithm": "natural", "floor": 1e-8, "spectrum": "magnitude"},
    {"sample_rate": 22_050, "f_max": 11_025.0, "mels": 40, "window_samples": 600},
    {"hop_samples": 160, "window_samples": 400},
]


def both(changed: dict[str, Any]) -> tuple[LogMel, spectra.LogMel]:
    given = LogMelSettings(**changed)
    return LogMel(given), spectra.LogMel(settings.LogMelSettings(**asdict(given)))


@pytest.mark.parametrize("changed", FRONT_ENDS)
@pytest.mark.parametrize("length", [301, 4_096, 10_001])
def test_logmel(changed: dict[str, Any], length: int, noisy_voice: np.ndarray) -> None:
    ours, light = both(changed)
    sound = noisy_voice[:length]
    expected = ours(torch.from_numpy(sound)[None])[0, 0].numpy()
    np.testing.assert_allclose(light(sound), expected, atol=5e-4)  # dB


@pytest.mark.parametrize("changed", FRONT_ENDS)
def test_filters_and_their_weights(changed: dict[str, Any]) -> None:
    ours, light = both(changed)
    np.testing.assert_allclose(light.filters, ours.filters.numpy(), atol=3e-5)
    np.testing.assert_allclose(light.window, ours.window.numpy(), atol=1e-6)
    np.testing.assert_allclose(light.weights, bin_weights(ours.filters).numpy(), atol=5e-5)


@pytest.mark.parametrize("changed", FRONT_ENDS)
@pytest.mark.parametrize("length", [4_096, 10_001])
def test_the_way_back_to_sound(
    changed: dict[str, Any], length: int, noisy_voice: np.ndarray
) -> None:
    ours, light = both(changed)
    sound = noisy_voice[:length]
    shape = (ours.settings.mels, 1 + length // ours.settings.hop_samples)
    change = np.random.default_rng(0).normal(0, 12, shape).astype(np.float32)
    waveform, wanted = torch.from_numpy(sound)[None], torch.from_numpy(change)[None, None]
    expected = apply_change(waveform, wanted, ours)[0].numpy()
    np.testing.assert_allclose(light.changing(sound)(change), expected, atol=2e-5)


@pytest.mark.parametrize(
    "scale",
    [
        Scale(ScaleSettings(top_db=34.7, window_db=80.0)),
        ZScore(ZScoreSettings(mean=(-20.0, -30.0, 4.0), sd=(12.0, 10.0, 0.0))),
    ],
)
def test_scales(scale: Scale | ZScore) -> None:
    light = settings.read_scale({"scale": json.dumps(asdict(scale.settings))}, 3)
    decibels = np.random.default_rng(0).normal(-20, 40, (3, 50)).astype(np.float32)
    scaled = scale(torch.from_numpy(decibels))
    np.testing.assert_allclose(light(decibels), scaled.numpy(), atol=1e-6)
    np.testing.assert_allclose(
        light.inverse(scaled.numpy()), scale.inverse(scaled).numpy(), atol=1e-4
    )


def test_the_rates_are_those_that_files_may_have() -> None:
    assert (rules.LOWEST_RATE, rules.HIGHEST_RATE) == (audio.LOWEST_RATE, audio.HIGHEST_RATE)
    assert windows.LOUDEST == audio.LOUDEST


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"mels": 0}, r"mels is 0, expected a whole number in \[1, 65536\]"),
        ({"window_samples": 10**9}, "window_samples is 1000000000, expected a whole number"),
        ({"hop_samples": 600}, "hop_samples is 600, expected at most window_samples"),
        ({"f_max": 9_000}, "expected 0 <= f_min < f_max"),
        ({"floor": 0}, "floor is 0, expected a number above 0"),
        ({"window": "kaiser"}, "window is 'kaiser', expected one of hamming, hann"),
    ],
)
def test_settings_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        settings.LogMelSettings(**{**asdict(LogMelSettings()), **changed})
