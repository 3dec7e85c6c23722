from __future__ import annotations

import itertools
import math

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from servax.features.logmel import bands, hz_to_mel, mel_filterbank, mel_to_hz

SETTINGS = [
    {"bins": 257, "mels": 64, "sample_rate": 16_000, "f_min": 0.0, "f_max": 8_000.0},
    {"bins": 201, "mels": 40, "sample_rate": 16_000, "f_min": 20.0, "f_max": 7_600.0},
    {"bins": 513, "mels": 80, "sample_rate": 22_050, "f_min": 50.0, "f_max": 11_000.0},
    {"bins": 129, "mels": 23, "sample_rate": 8_000, "f_min": 64.0, "f_max": 4_000.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_htk_filters_are_bit_identical_to_torchaudio(torchaudio, settings):
    ours = mel_filterbank(**settings, scale="htk")
    oracle = torchaudio.functional.melscale_fbanks(
        n_freqs=settings["bins"],
        f_min=settings["f_min"],
        f_max=settings["f_max"],
        n_mels=settings["mels"],
        sample_rate=settings["sample_rate"],
        norm=None,
        mel_scale="htk",
    )
    assert torch.equal(ours, oracle)


@pytest.mark.parametrize("settings", SETTINGS)
def test_slaney_filters_agree_with_torchaudio(torchaudio, settings):
    ours = mel_filterbank(**settings, scale="slaney")
    oracle = torchaudio.functional.melscale_fbanks(
        n_freqs=settings["bins"],
        f_min=settings["f_min"],
        f_max=settings["f_max"],
        n_mels=settings["mels"],
        sample_rate=settings["sample_rate"],
        norm="slaney",
        mel_scale="slaney",
    )
    torch.testing.assert_close(ours, oracle, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "scale"), list(itertools.product(SETTINGS, ("htk", "slaney")))
)
def test_filters_agree_with_librosa(settings, scale):
    ours = mel_filterbank(**settings, scale=scale)
    oracle = librosa.filters.mel(
        sr=settings["sample_rate"],
        n_fft=2 * (settings["bins"] - 1),
        n_mels=settings["mels"],
        fmin=settings["f_min"],
        fmax=settings["f_max"],
        htk=scale == "htk",
        norm="slaney" if scale == "slaney" else None,
    ).T
    # librosa computes in float64: near an edge of a filter float32 differs by rounding.
    np.testing.assert_allclose(ours.numpy(), oracle, rtol=0, atol=2e-4 * oracle.max())


def test_no_filter_of_the_paper_is_empty():
    filters = mel_filterbank(**SETTINGS[0], scale="htk")
    assert (filters.sum(dim=0) > 0).all()
    assert (filters >= 0).all()


@pytest.mark.parametrize(
    ("hz", "scale", "mel"),
    [
        (0.0, "htk", 0.0),
        (700.0, "htk", 2595.0 * math.log10(2.0)),  # 1 + 700 / 700
        (6_300.0, "htk", 2595.0),  # 1 + 9 = 10
        (0.0, "slaney", 0.0),
        (200.0 / 3, "slaney", 1.0),
        (1_000.0, "slaney", 15.0),
        (6_400.0, "slaney", 42.0),  # 27 steps per factor 6.4
    ],
)
def test_mel_values_worked_by_hand(hz, scale, mel):
    assert hz_to_mel(hz, scale=scale) == pytest.approx(mel, abs=1e-9)


@given(st.floats(0.0, 24_000.0), st.sampled_from(["htk", "slaney"]))
def test_mel_and_back(hz, scale):
    mel = torch.tensor(hz_to_mel(hz, scale=scale), dtype=torch.float64)
    assert float(mel_to_hz(mel, scale=scale)) == pytest.approx(hz, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("settings", "scale"), list(itertools.product(SETTINGS, ("htk", "slaney")))
)
def test_groups_hold_every_filter_whole(settings, scale, parts):
    filters = mel_filterbank(**settings, scale=scale)
    groups = bands(filters, parts)
    assert 1 <= len(groups) <= parts
    kept = torch.zeros_like(filters)
    for rows, columns in groups:
        kept[rows, columns] += filters[rows, columns]
    assert torch.equal(kept, filters)


def test_three_groups_leave_out_most_of_the_papers_filters():
    filters = mel_filterbank(**SETTINGS[0], scale="htk")
    groups = bands(filters)
    assert [mels for _, mels in groups] == [slice(0, 24), slice(24, 48), slice(48, 64)]
    left = sum((rows.stop - rows.start) * (mels.stop - mels.start) for rows, mels in groups)
    assert left < 0.35 * filters.numel()


def test_filters_without_a_bin_stay_empty():
    # 128 filters of 33 rows: most lie between two bins, and so do all of the first group of 8.
    filters = mel_filterbank(
        bins=33, mels=128, sample_rate=16_000, f_min=0.0, f_max=8_000.0, scale="htk"
    )
    groups = bands(filters, parts=16)
    assert [mels.start for _, mels in groups] == list(range(0, 128, 8))
    energy = torch.rand(5, 33, generator=torch.Generator().manual_seed(0)).double()
    found = [energy[:, rows] @ filters[rows, mels].double() for rows, mels in groups]
    torch.testing.assert_close(torch.cat(found, dim=1), energy @ filters.double())
