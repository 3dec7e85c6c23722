from __future__ import annotations

import math
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch

from servax.errors import SettingError, ShapeError
from servax.features import FrontEnd, FrontEndSettings, LogMel, LogMelSettings, set_level


@pytest.mark.parametrize("level_dbfs", [-40.0, -26.0, 0.0])
def test_set_level_brings_each_utterance_to_its_level(speech, level_dbfs):
    waveform = speech(1, batch=3) * torch.tensor([[1.0], [0.01], [5.0]])
    levelled = set_level(waveform, level_dbfs).double().numpy()
    measured = 20 * np.log10(np.sqrt((levelled**2).mean(axis=1)))
    np.testing.assert_allclose(measured, level_dbfs, atol=1e-4)
    shape = levelled[1] / np.abs(levelled[1]).max()
    expected = waveform[1].double().numpy()
    np.testing.assert_allclose(shape, expected / np.abs(expected).max(), atol=1e-5)


def test_silence_is_not_raised():
    assert torch.equal(set_level(torch.zeros(1, 100), -26.0), torch.zeros(1, 100))
    # Below -100 dBFS the gain stays what it is at -100 dBFS: 74 dB up to -26.
    faint = torch.full((1, 100), 1e-7)
    raised = 10 ** (74 / 20) * 1e-7
    assert set_level(faint, -26.0)[0, 0].item() == pytest.approx(raised, rel=1e-4)


def test_the_gradient_through_a_levelled_utterance_is_exact():
    draws = torch.Generator().manual_seed(1)
    waveform = torch.randn(2, 50, generator=draws, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: set_level(w, -26.0), (waveform,))


def test_it_is_level_then_log_mel_then_frames(speech):
    waveform = speech(2, samples=5_000, batch=2)
    front_end = FrontEnd(FrontEndSettings(frames=50))
    whole = LogMel.speech_16k()(set_level(waveform, -26.0))  # 20 frames
    expected = torch.cat([whole, whole, whole], dim=-1)[..., :50]
    assert torch.equal(front_end(waveform), expected)


def test_loudness_does_not_matter_unless_levelling_is_off(speech):
    waveform = speech(3, samples=4_000)
    levelled = FrontEnd(FrontEndSettings(frames=10))
    torch.testing.assert_close(levelled(waveform), levelled(0.01 * waveform), rtol=0, atol=1e-3)
    raw = FrontEnd(FrontEndSettings(frames=10, level_dbfs=None))
    fall = raw(waveform).max() - raw(0.01 * waveform).max()
    assert float(fall) == pytest.approx(40.0, abs=1e-3)


@pytest.mark.parametrize("samples", [1, 2, 255, 256, 257, 300, 120_000])
def test_every_length_gives_373_frames_and_no_nan(samples):
    draws = torch.Generator().manual_seed(samples)
    waveform = torch.randn(2, samples, generator=draws).requires_grad_(True)
    logmel = FrontEnd()(waveform)
    assert logmel.shape == (2, 1, 64, 373)
    assert logmel.isfinite().all()
    (gradient,) = torch.autograd.grad(logmel.sum(), waveform)
    assert gradient.isfinite().all()


def test_silence_is_the_floor_and_has_a_gradient():
    waveform = torch.zeros(1, 3_000, requires_grad=True)
    logmel = FrontEnd()(waveform)
    assert torch.equal(logmel, torch.full((1, 1, 64, 373), -100.0))
    (gradient,) = torch.autograd.grad(logmel.sum(), waveform)
    assert gradient.isfinite().all()


@pytest.mark.real_corpus
def test_a_real_recording_lies_in_the_window(real_data):
    from servax import audio

    path = next(real_data("ravdess").rglob("03-01-*.wav"))
    logmel = FrontEnd()(torch.from_numpy(audio.read(path)).unsqueeze(0))
    assert logmel.shape == (1, 1, 64, 373)
    assert float(logmel.max()) > 20.0
    assert float(logmel.median()) > float(logmel.max()) - 80.0


def test_no_samples_are_refused():
    sentence = "waveform has shape (1, 0), expected (B, T) with T > 256 samples (half a window)."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        FrontEnd()(torch.zeros(1, 0))


def test_settings_come_back_from_a_plain_dict():
    settings = FrontEndSettings(logmel=LogMelSettings(mels=40), frames=100, level_dbfs=None)
    assert FrontEndSettings(**asdict(settings)) == settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"frames": 0}, "frames is 0, expected a whole number of at least 1."),
        ({"level_dbfs": 1.0}, "level_dbfs is 1.0, expected a level in (-100, 0] dBFS, or none."),
        (
            {"level_dbfs": math.nan},
            "level_dbfs is nan, expected a level in (-100, 0] dBFS, or none.",
        ),
        ({"fill": "zero"}, "fill is 'zero', expected one of floor, repeat."),
        ({"logmel": {"mels": 0}}, "mels is 0, expected a whole number of at least 1."),
    ],
)
def test_settings_outside_their_rule_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        FrontEndSettings(**settings)
