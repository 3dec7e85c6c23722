from __future__ import annotations

import math
import re

import pytest
import torch

from servax.errors import ShapeError
from servax.features import LogMel, LogMelSettings, apply_change
from servax.features.resynthesis import LARGEST_GAIN_DB, bin_weights


def test_no_change_gives_the_waveform_back(speech):
    waveform = speech(1, samples=9_001, batch=2)
    front_end = LogMel.speech_16k()
    change = torch.zeros_like(front_end(waveform))
    torch.testing.assert_close(apply_change(waveform, change, front_end), waveform)


@pytest.mark.parametrize(("change_db", "gain_db"), [(6.0, 6.0), (-12.0, -12.0), (50.0, 20.0)])
def test_an_equal_change_everywhere_is_a_gain_up_to_the_largest(speech, change_db, gain_db):
    waveform = speech(2, samples=9_000)
    front_end = LogMel.speech_16k()
    change = torch.full_like(front_end(waveform), change_db)
    expected = waveform * 10 ** (gain_db / 20)
    torch.testing.assert_close(apply_change(waveform, change, front_end), expected)
    assert LARGEST_GAIN_DB == 20.0


@pytest.mark.parametrize("samples", [8_000, 8_160, 8_190, 8_191, 8_192, 8_193, 300])
def test_no_length_ends_in_a_click(speech, samples):
    waveform = speech(2, samples=samples)
    front_end = LogMel.speech_16k()
    change = 3.0 * torch.ones_like(front_end(waveform))
    change[:, :, ::2] *= -1.0
    largest = float(waveform.abs().max())
    assert float(apply_change(waveform, change, front_end).abs().max()) < 2.0 * largest


def test_a_band_that_is_lowered_loses_its_tone_and_the_other_tone_stays():
    time = torch.arange(16_000) / 16_000
    low, high = (torch.sin(2 * math.pi * hz * time) for hz in (500.0, 4_000.0))
    front_end = LogMel.speech_16k()
    waveform = (low + high).unsqueeze(0)
    change = torch.zeros_like(front_end(waveform))
    change[:, :, 40:] = -20.0  # 40 of 64 Mel bins lie below 3 kHz
    out = apply_change(waveform, change, front_end)[0]
    inner = slice(1_000, -1_000)
    assert 2 * float((out * low)[inner].mean()) == pytest.approx(1.0, abs=0.01)
    assert 2 * float((out * high)[inner].mean()) == pytest.approx(0.1, abs=0.01)


def test_bin_weights_are_averages_and_uncovered_bins_follow_their_neighbour():
    filters = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0], [0.0, 0.5], [0.0, 0.0]])
    expected = [[1.0, 0.0], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0], [0.0, 1.0]]
    assert bin_weights(filters).tolist() == expected


def test_a_change_of_another_size_is_refused():
    sentence = "change_db has shape (1, 1, 64, 5), expected (1, 1, 64, 11) for this waveform."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        apply_change(torch.zeros(1, 2_600), torch.zeros(1, 1, 64, 5), LogMel.speech_16k())


@pytest.mark.parametrize("hop", [256, 160, 128])
@pytest.mark.parametrize("samples", [9_001, 8_960, 300])
def test_the_inverse_is_torchs_of_the_changed_spectrum(speech, hop, samples):
    front_end = LogMel(LogMelSettings(hop_samples=hop))
    waveform = speech(4, samples=samples, batch=2)
    change = 6.0 * torch.sin(torch.arange(64.0) * 0.7)[:, None] * torch.ones(2, 1, 1, 1)
    change = change.expand(-1, -1, -1, 1 + samples // hop)
    whole = torch.nn.functional.pad(waveform, (0, -samples % hop), mode="reflect")
    gain = 10.0 ** (bin_weights(front_end.filters) @ change[:, 0, :, :1] / 20.0)  # (B, bins, 1)
    expected = torch.istft(
        front_end.spectrum(whole) * gain,
        512,
        hop,
        window=front_end.window,
        center=True,
        length=samples,
    )
    found = apply_change(waveform, change, front_end)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
