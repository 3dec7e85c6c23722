from __future__ import annotations

import math
import re

import librosa
import numpy as np
import pytest
import torch

from servax import audio
from servax.errors import SettingError, ShapeError
from servax.features import LogMel, LogMelSettings


def torchaudio_db(torchaudio, waveform):
    transform = torchaudio.transforms.MelSpectrogram(16_000, n_fft=512, hop_length=256, n_mels=64)
    power = transform(waveform)  # (B, M, F)
    return power, 10.0 * torch.log10(torch.clamp(power, min=1e-10)).unsqueeze(1)


def assert_same_as_torchaudio(torchaudio, waveform):
    ours = LogMel.speech_16k()(waveform)
    power, decibels = torchaudio_db(torchaudio, waveform)
    torch.testing.assert_close(ours, decibels, rtol=1e-5, atol=1e-5)
    ours_power = 10.0 ** (ours.double() / 10.0)
    expected = power.double().clamp(min=1e-10).unsqueeze(1)
    torch.testing.assert_close(ours_power, expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("samples", [257, 512, 16_000, 16_001, 96_000])
def test_speech_16k_is_torchaudios_mel_spectrogram_in_db(torchaudio, speech, samples):
    assert_same_as_torchaudio(torchaudio, speech(samples, samples=samples, batch=2))


@pytest.mark.real_corpus
def test_speech_16k_is_torchaudios_on_a_real_recording(torchaudio, real_data):
    path = next(real_data("ravdess").rglob("03-01-*.wav"))
    assert_same_as_torchaudio(torchaudio, torch.from_numpy(audio.read(path)).unsqueeze(0))


def slow_log_mel(waveform):
    """Return (M, F) in dB: every formula of the front-end written out in float64."""
    window, hop, mels, rate = 512, 256, 64, 16_000
    padded = np.pad(waveform.astype(np.float64), window // 2, mode="reflect")
    hann = np.array([math.sin(math.pi * n / window) ** 2 for n in range(window)])
    n, bins = np.arange(window), window // 2 + 1
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(bins), n) / window)
    top = 2595 * math.log10(1 + 8_000 / 700)
    edges = [700 * (10 ** (top * i / (mels + 1) / 2595) - 1) for i in range(mels + 2)]
    filters = np.zeros((mels, bins))
    for m in range(mels):
        left, centre, right = edges[m : m + 3]
        for k in range(bins):
            hz = k * rate / window
            if left <= hz <= centre:
                filters[m, k] = (hz - left) / (centre - left)
            elif centre < hz <= right:
                filters[m, k] = (right - hz) / (right - centre)
    columns = []
    for start in range(0, len(padded) - window + 1, hop):
        spectrum = fourier @ (padded[start : start + window] * hann)
        columns.append(10 * np.log10(np.maximum(filters @ np.abs(spectrum) ** 2, 1e-10)))
    return np.stack(columns, axis=1)


def test_speech_16k_is_the_formula_written_out(speech):
    waveform = speech(3, samples=9_000)
    ours = LogMel.speech_16k()(waveform)[0, 0].numpy()
    expected = slow_log_mel(waveform[0].numpy())
    assert ours.shape == expected.shape == (64, 36)
    # Filters in float32 (torchaudio's) differ by up to 8e-5 relative from float64: .0004 dB.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("window", ["hann", "hamming"])
@pytest.mark.parametrize(
    ("spectrum", "logarithm", "floor"), [("power", "db", 1e-10), ("magnitude", "natural", 1e-8)]
)
def test_gradient_reaches_the_waveform_exactly(window, spectrum, logarithm, floor):
    settings = LogMelSettings(
        sample_rate=1_000,
        window_samples=16,
        hop_samples=8,
        mels=4,
        f_max=500.0,
        window=window,
        spectrum=spectrum,
        logarithm=logarithm,
        floor=floor,
    )
    draws = torch.Generator().manual_seed(0)
    waveform = torch.randn(2, 40, generator=draws, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LogMel(settings).double(), (waveform,))


def test_gradient_of_silence_is_zero_and_finite():
    waveform = torch.zeros(1, 2_000, requires_grad=True)
    for front_end in (LogMel.speech_16k(), LogMel.ren2020()):
        (gradient,) = torch.autograd.grad(front_end(waveform).sum(), waveform)
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_ren2020_agrees_with_librosa(speech):
    waveform = speech(5, samples=20_000)
    ours = LogMel.ren2020()(waveform)[0, 0].numpy()
    spectrum = librosa.stft(
        waveform[0].numpy().astype(np.float64),
        n_fft=512,
        hop_length=256,
        window="hamming",
        pad_mode="reflect",
    )
    filters = librosa.filters.mel(
        sr=16_000, n_fft=512, n_mels=64, fmin=20.0, fmax=8_000.0, htk=False, norm="slaney"
    )
    mel = filters @ np.abs(spectrum)
    expected = np.log(mel + 1e-8)
    assert ours.shape == expected.shape == (64, 79)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("samples", "frames"), [(257, 2), (511, 2), (512, 3), (96_000, 376)])
def test_shape(samples, frames):
    assert LogMel.speech_16k()(torch.zeros(3, samples)).shape == (3, 1, 64, frames)


def test_silence_is_the_floor():
    assert torch.equal(LogMel.speech_16k()(torch.zeros(1, 600)), torch.full((1, 1, 64, 3), -100.0))
    natural = LogMel.ren2020()(torch.zeros(1, 600))
    torch.testing.assert_close(natural, torch.full((1, 1, 64, 3), math.log(1e-8)))


def test_a_batch_equals_its_utterances_one_by_one(speech):
    waveform = speech(7, samples=8_000, batch=4)
    front_end = LogMel.speech_16k()
    one_by_one = torch.cat([front_end(row.unsqueeze(0)) for row in waveform])
    torch.testing.assert_close(front_end(waveform), one_by_one, rtol=1e-6, atol=1e-5)


def test_nothing_is_saved_that_follows_from_the_settings():
    assert LogMel.speech_16k().state_dict() == {}


@pytest.mark.parametrize(
    ("spectrum", "logarithm", "expected"),
    [
        ("power", "db", 1.0),
        ("power", "natural", 10 / math.log(10)),
        ("magnitude", "natural", 20 / math.log(10)),
    ],
)
def test_db_per_unit(spectrum, logarithm, expected):
    settings = LogMelSettings(spectrum=spectrum, logarithm=logarithm)
    assert settings.db_per_unit == pytest.approx(expected)
    # Twice the amplitude is 6.02 dB more, whatever the unit.
    waveform = torch.sin(torch.arange(4_000) * 0.3).unsqueeze(0)
    front_end = LogMel(settings)
    rise = (front_end(2 * waveform) - front_end(waveform)).max() * settings.db_per_unit
    assert float(rise) == pytest.approx(20 * math.log10(2), abs=0.01)


def test_hop_seconds():
    assert LogMelSettings().hop_seconds == 0.016


@pytest.mark.parametrize("shape", [(16_000,), (1, 256), (1, 0), (2, 1, 16_000)])
def test_waveforms_of_another_shape_are_refused(shape):
    sentence = f"waveform has shape {shape}, expected (B, T) with T > 256 samples (half a window)."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        LogMel.speech_16k()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sample_rate": 0}, "sample_rate is 0, expected a whole number of at least 1."),
        ({"window_samples": -1}, "window_samples is -1, expected a whole number of at least 1."),
        ({"mels": 0}, "mels is 0, expected a whole number of at least 1."),
        ({"hop_samples": 513}, "hop_samples is 513, expected at most window_samples (512)."),
        (
            {"f_max": 8_001.0},
            "f_min, f_max is (0.0, 8001.0), expected 0 <= f_min < f_max <= 8000 Hz, half the "
            "sample rate.",
        ),
        (
            {"f_min": float("nan")},
            "f_min, f_max is (nan, 8000.0), expected 0 <= f_min < f_max <= 8000 Hz, half the "
            "sample rate.",
        ),
        ({"floor": 0.0}, "floor is 0.0, expected a finite number above 0."),
        ({"floor": float("inf")}, "floor is inf, expected a finite number above 0."),
        (
            {"window": "haming"},
            "window is 'haming', expected one of hamming, hann. Did you mean 'hamming'?",
        ),
        ({"spectrum": "energy"}, "spectrum is 'energy', expected one of magnitude, power."),
        ({"mel_scale": "bark"}, "mel_scale is 'bark', expected one of htk, slaney."),
        ({"logarithm": "log2"}, "logarithm is 'log2', expected one of db, natural."),
    ],
)
def test_settings_outside_their_rule_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        LogMelSettings(**settings)


@pytest.mark.parametrize(("window", "hop"), [(512, 256), (512, 160), (511, 100), (1, 1)])
@pytest.mark.parametrize("samples", [257, 511, 9_001])
def test_the_spectrum_is_torchs_short_time_transform_bit_by_bit(speech, window, hop, samples):
    front_end = LogMel(LogMelSettings(window_samples=window, hop_samples=hop, mels=1))
    waveform = speech(1, samples=samples, batch=2)
    expected = torch.stft(
        waveform,
        window,
        hop,
        window=front_end.window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    assert torch.equal(front_end.spectrum(waveform), expected)
