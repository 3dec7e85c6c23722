from __future__ import annotations

import io
import math

import numpy as np
import pytest
import soundfile
import torch
from scipy import signal

from servax.defences import Codec, LowPass, Resample


def draw(*shape, seed=0):
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def tone(frequency, rate, seconds=1.0):
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    return 0.5 * torch.sin(2 * math.pi * frequency * time)[None]


def voice(rate):
    """Return a second of a harmonic sound that comes and goes, (1, T), float32."""
    time = np.arange(rate + 137) / rate
    partials = sum(np.sin(2 * np.pi * f * time + f) / n for n, f in enumerate((220, 440, 910), 1))
    sound = 0.2 * partials * (1 + 0.8 * np.sin(2 * np.pi * 3 * time)) * (time > 0.2)
    return torch.from_numpy(sound.astype(np.float32))[None]


def snr_db(clean, found):
    return float(10 * torch.log10(clean.square().sum() / (clean - found).square().sum()))


@pytest.mark.parametrize(("rate", "cutoff", "taps"), [(16_000, 3_000, 31), (8_000, 500.5, 101)])
def test_low_pass_is_the_filter_of_scipy(rate, cutoff, taps):
    x = draw(2, 250)
    kernel = signal.firwin(taps, cutoff, fs=rate)
    expected = signal.oaconvolve(x.numpy(), kernel[None], mode="same", axes=1)
    found = LowPass(rate, cutoff, taps)(x).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_low_pass_removes_what_lies_above_and_delays_nothing():
    defence = LowPass(16_000, 3_000)
    inside = slice(200, -200)
    low, high = tone(2_500, 16_000), tone(3_500, 16_000)
    assert snr_db(low[:, inside], defence(low)[:, inside]) > 40
    assert defence(high)[:, inside].abs().max() < 0.005


@pytest.mark.parametrize(
    ("rate", "lower"), [(16_000, 8_000), (16_000, 11_025), (44_100, 16_000), (8_000, 7_000)]
)
def test_resample_is_torchaudios_there_and_back(rate, lower, torchaudio):
    x = draw(2, 1_501)
    settings = {"lowpass_filter_width": 16, "rolloff": 0.99}
    low = torchaudio.functional.resample(x, rate, lower, **settings)
    back = torchaudio.functional.resample(low, lower, rate, **settings)
    expected = back[:, : x.shape[1]].clamp(-1, 1)
    torch.testing.assert_close(Resample(rate, lower)(x), expected, rtol=0, atol=1e-9)


def test_resample_agrees_with_scipy_on_what_both_rates_hold():
    x = tone(1_000, 16_000) + tone(2_900, 16_000, 1.0) * 0.5
    x = x * torch.hann_window(x.shape[1], dtype=x.dtype)
    low = signal.resample_poly(x.numpy(), 1, 2, axis=1)
    back = torch.from_numpy(signal.resample_poly(low, 2, 1, axis=1))
    found = Resample(16_000, 8_000)(x)
    assert snr_db(x, found) > 40
    assert snr_db(back, found) > 40


def test_resample_removes_what_the_lower_rate_cannot_hold():
    high = tone(5_000, 16_000)
    assert Resample(16_000, 8_000)(high)[:, 100:-100].abs().max() < 0.005
    assert snr_db(high[:, 100:-100], Resample(16_000, 12_000)(high)[:, 100:-100]) > 40


@pytest.mark.parametrize("length", [1, 2, 7, 160])
def test_short_clips_keep_their_length(length):
    x = draw(1, length).float()
    for defence in (LowPass(16_000, 3_000), Resample(16_000, 11_025), Codec(16_000, "mp3")):
        assert defence(x).shape == x.shape


CODECS = [
    ("mp3", "MP3", "MPEG_LAYER_III", 16_000),
    ("mp3", "MP3", "MPEG_LAYER_III", 44_100),
    ("ogg-vorbis", "OGG", "VORBIS", 16_000),
    ("ogg-vorbis", "OGG", "VORBIS", 22_050),
    ("ogg-opus", "OGG", "OPUS", 16_000),
    ("ogg-opus", "OGG", "OPUS", 24_000),
]
codecs = pytest.mark.parametrize(("name", "container", "subtype", "rate"), CODECS)


@codecs
def test_a_codec_is_soundfiles(name, container, subtype, rate, tmp_path):
    x = voice(rate)
    path = tmp_path / f"sound.{container.lower()}"
    soundfile.write(path, x[0].numpy(), rate, subtype=subtype, compression_level=0.25)
    expected, found_rate = soundfile.read(path, dtype="float32")
    assert found_rate == rate
    found = Codec(rate, name, 0.75)(x)[0].numpy()
    np.testing.assert_array_equal(found, expected.clip(-1, 1))


@codecs
def test_a_codec_delays_nothing_and_more_quality_is_nearer(name, container, subtype, rate):
    x = voice(rate)
    found = [Codec(rate, name, quality)(x) for quality in (0.0, 0.5, 1.0)]
    ratios = [snr_db(x, sound) for sound in found]
    assert ratios[2] > 25
    assert min(ratios[1:]) > ratios[0] + 1
    for sound in found[1:]:
        products = signal.correlate(sound[0].numpy(), x[0].numpy())
        assert products.argmax() == x.shape[1] - 1


def test_values_of_a_codec_are_not_moved_by_its_gradient():
    x = voice(16_000)
    defence = Codec(16_000, "ogg-vorbis")
    with torch.no_grad():
        expected = defence(x)
    assert torch.equal(defence(x.clone().requires_grad_(True)).detach(), expected)


def test_loud_sound_is_clamped_and_silence_stays_silent():
    loud = torch.sign(voice(16_000))
    file = io.BytesIO()
    soundfile.write(file, loud[0].numpy(), 16_000, format="MP3", compression_level=0.5)
    file.seek(0)
    assert np.abs(soundfile.read(file)[0]).max() > 1.0
    assert Codec(16_000, "mp3")(loud).abs().max() == 1.0
    for name in ("mp3", "ogg-vorbis", "ogg-opus"):
        assert Codec(16_000, name)(torch.zeros(1, 4_000)).abs().max() < 1e-6
