"""From an adversarial log-Mel to sound, to a file, and back."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from servax import audio
from servax.attacks import PGD
from servax.errors import ShapeError
from servax.evaluation.realisability import in_frames_of_sound, realise
from servax.features import FrontEnd, FrontEndSettings, LogMelSettings, Scale, ScaleSettings
from servax.perturbation import into_16_bit

SCALE = Scale(ScaleSettings(top_db=40.0, window_db=120.0))
PLAIN = FrontEndSettings(frames=32, level_dbfs=None)
LEVELLED = FrontEndSettings(frames=32)


def speech(samples=8_000, seed=0):
    """Return (T,) a voice with a moving pitch and some noise."""
    draws = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    phase = 2 * np.pi * np.cumsum(130 + 10 * seed + 20 * np.sin(9 * time)) / 16_000
    voice = sum(np.sin(h * phase + draws.uniform(0, 6)) / h for h in range(1, 40))
    sound = 0.05 * voice + 0.01 * draws.normal(size=samples)
    return torch.from_numpy(sound.astype(np.float32))


def logmel(waveform, settings):
    with torch.no_grad():
        return SCALE(FrontEnd(settings)(waveform.reshape(1, -1)))


def test_a_file_holds_the_nearest_16_bit_samples(tmp_path):
    waveform = speech() * 20
    read = into_16_bit(waveform)
    expected = np.clip(np.round(waveform.double().numpy() * 32768), -32768, 32767)
    assert np.array_equal(read.double().numpy() * 32768, expected)
    audio.write(tmp_path / "a.wav", read.numpy(), 16_000)
    assert np.array_equal(audio.read(tmp_path / "a.wav"), read.numpy())
    soundfile.write(tmp_path / "b.wav", expected.astype(np.int16), 16_000, subtype="PCM_16")
    assert np.array_equal(soundfile.read(tmp_path / "b.wav", dtype="float32")[0], read.numpy())


@pytest.mark.parametrize("settings", [PLAIN, LEVELLED])
@pytest.mark.parametrize("samples", [3_000, 8_000, 12_000])
def test_no_change_gives_back_the_log_mel_up_to_16_bits(settings, samples):
    waveform = speech(samples)
    x = logmel(waveform, settings)
    found = realise(waveform, x, x, settings, SCALE)
    assert found.log_mel_error_db < 0.01
    assert found.largest_change_db < 0.3
    assert found.snr_db > 60.0
    assert float((found.waveform[0] - waveform).abs().max()) <= 0.51 / 32768


LOG = LogMelSettings(logarithm="natural", floor=1e-8)
MAGNITUDE = LogMelSettings(spectrum="magnitude")


@pytest.mark.parametrize(
    ("spectrum", "per_6_db"),
    [(LogMelSettings(), 6.0), (LOG, 0.6 * math.log(10)), (MAGNITUDE, 3.0)],
)
@pytest.mark.parametrize("samples", [8_000, 3_000, 8_191])
def test_an_equal_change_is_reached(spectrum, per_6_db, samples):
    settings = FrontEndSettings(logmel=spectrum, frames=32, level_dbfs=None)
    waveform = speech(samples)
    x = logmel(waveform, settings)
    found = realise(waveform, x, x - per_6_db / 120.0, settings, SCALE)
    assert found.log_mel_error_db < 0.05
    assert found.snr_db == pytest.approx(-20 * math.log10(1 - 10 ** (-0.3)), abs=0.05)
    torch.testing.assert_close(found.waveform[0], waveform * 10**-0.3, atol=2e-5, rtol=0)


def test_a_smooth_change_is_reached_and_a_pattern_of_cells_is_not():
    waveform = speech()
    x = logmel(waveform, PLAIN)
    time, place = torch.arange(32) / 32, torch.arange(64)[:, None] / 64
    smooth = 3.0 * torch.sin(2 * math.pi * time) * torch.cos(math.pi * place)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    pattern = 3.0 * (2.0 * (noise > 0.5) - 1.0)
    reached, missed = (
        realise(waveform, x, x + change / 120.0, PLAIN, SCALE) for change in (smooth, pattern)
    )
    assert reached.log_mel_error_db < 0.5
    assert missed.log_mel_error_db > 1.5
    assert missed.log_mel_error_db > 4 * reached.log_mel_error_db


def test_a_level_cannot_be_changed_where_the_front_end_sets_it():
    waveform = speech()
    x = logmel(waveform, LEVELLED)
    found = realise(waveform, x, x - 6.0 / 120.0, LEVELLED, SCALE)
    assert found.log_mel_error_db == pytest.approx(6.0, abs=0.05)
    assert found.largest_change_db < 0.5


def test_of_a_longer_sound_only_the_middle_changes():
    waveform = speech(16_000)  # 63 frames, of which 15 to 46 are seen
    x = logmel(waveform, PLAIN)
    found = realise(waveform, x, x - 6.0 / 120.0, PLAIN, SCALE)
    torch.testing.assert_close(found.waveform[0, :3_300], waveform[:3_300], atol=2e-5, rtol=0)
    torch.testing.assert_close(found.waveform[0, 12_300:], waveform[12_300:], atol=2e-5, rtol=0)
    middle = slice(4_500, 11_000)
    expected = waveform[middle] * 10**-0.3
    torch.testing.assert_close(found.waveform[0, middle], expected, atol=2e-5, rtol=0)
    assert found.log_mel_error_db < 0.3


def test_a_repeated_frame_takes_the_change_of_its_first_occurrence():
    change = torch.arange(7.0).expand(1, 1, 2, 7)
    assert in_frames_of_sound(change, 3)[0, 0, 0].tolist() == [0, 1, 2]
    assert in_frames_of_sound(change, 7)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert in_frames_of_sound(change, 10)[0, 0, 1].tolist() == [
        0,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        0,
        0,
    ]  # the middle


# The gap


class Detector(nn.Module):
    """Class 1 where the product with a pattern of cells is positive; it was trained on nothing."""

    def __init__(self, pattern, offset):
        super().__init__()
        self.pattern, self.offset = pattern, offset

    def forward(self, x):
        score = (x * self.pattern).flatten(1).sum(1) - self.offset
        return torch.stack([-score, score], dim=1)


def test_a_pattern_that_no_sound_has_fools_on_the_log_mel_only():
    waveforms = [speech(8_000 + 500 * i, seed=i) for i in range(4)]
    x = torch.cat([logmel(w, PLAIN) for w in waveforms])
    draws = torch.Generator().manual_seed(1)
    pattern = 2.0 * (torch.rand(1, 1, 64, 32, generator=draws) > 0.5) - 1.0
    epsilon = 3.0 / 120.0
    adversarial = x + epsilon * pattern
    # Each score is raised by epsilon * 2048; what is asked for is 90 % of that.
    score = (x * pattern).flatten(1).sum(1)
    offset = float(score.min()) + 0.9 * epsilon * 2048
    assert float(score.max()) < offset < float((adversarial * pattern).flatten(1).sum(1).min())
    model = Detector(pattern, offset)
    made = [
        realise(w, clean[None], wanted[None], PLAIN, SCALE).x_again
        for w, clean, wanted in zip(waveforms, x, adversarial, strict=True)
    ]
    said = [model(each).argmax(1).tolist() for each in (x, adversarial, torch.cat(made))]
    assert said == [[0] * 4, [1] * 4, [0] * 4]


def test_counts_and_shapes_are_refused():
    waveform = speech()
    x = logmel(waveform, PLAIN)
    sentence = "x_adv has shape (1, 1, 64, 31), expected (1, 1, 64, 32)."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        realise(waveform, x, x[..., 1:], PLAIN, SCALE)
    with pytest.raises(
        ShapeError, match=r"^waveform has shape \(256,\), expected \(T,\) or \(1, T"
    ):
        realise(waveform[:256], x, x, PLAIN, SCALE)


@pytest.mark.real_corpus
def test_two_real_recordings(real_data):
    paths = sorted(real_data("ravdess").rglob("03-01-*.wav"))[:2]
    waveforms = [torch.from_numpy(audio.read(path)[:24_000]) for path in paths]
    settings = FrontEndSettings(frames=64)
    scale = Scale(ScaleSettings(top_db=40.0))
    with torch.no_grad():
        x = torch.cat([scale(FrontEnd(settings)(w[None])) for w in waveforms])
    head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 4))
    nn.init.normal_(head[1].weight, std=0.05, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = head(x).argmax(1)
    adversarial = PGD(epsilon=0.02, steps=5, step=0.01)(head, x, labels)
    for w, clean, wanted in zip(waveforms, x, adversarial, strict=True):
        control, sound = (
            realise(w, clean[None], each[None], settings, scale) for each in (clean, wanted)
        )
        assert head(control.x_again).argmax(1) == head(clean[None]).argmax(1)
        assert 5.0 < sound.snr_db < 60.0
        assert 0.05 < sound.log_mel_error_db < 1.6  # at most what was asked for, on average
