from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pystoi
import pytest
import soundfile
import soxr
import torch
from scipy import signal
from speechmos import dnsmos

from servax.errors import ShapeError
from servax.evaluation.distortion import (
    MEASURES,
    available,
    largest_change_db,
    mean_change_db,
    measured,
    signal_to_noise_ratio,
    words_understood,
)
from servax.features import Scale, ScaleSettings, ZScore, ZScoreSettings

NEEDS_PESQ = pytest.mark.skipif(
    find_spec("pesq") is None, reason="PESQ MISSING: it is compiled where it is installed"
)


def pair(*shape):
    draws = np.random.default_rng(0)
    x = draws.normal(0, 0.1, shape)
    return x, x + draws.normal(0, 1e-3, shape)


@pytest.mark.parametrize("shape", [(3, 500), (2, 1, 6, 8)])
def test_the_ratio_is_numpys(shape):
    x, moved = pair(*shape)
    rows = zip(x.reshape(shape[0], -1), moved.reshape(shape[0], -1), strict=True)
    expected = [10 * np.log10(np.var(a, mean=0) / np.var(b - a, mean=0)) for a, b in rows]
    got = signal_to_noise_ratio(torch.from_numpy(x), torch.from_numpy(moved))
    np.testing.assert_allclose(got, expected)


def test_ratios_of_silence_and_of_no_change():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, 0.5]])
    moved = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.5, 0.5]])
    assert signal_to_noise_ratio(x, moved).tolist() == [math.inf, -math.inf, math.inf]


def test_the_largest_change_is_in_db():
    scale = Scale(ScaleSettings(top_db=20.0))
    x = torch.full((2, 1, 64, 5), 0.5)
    moved = x.clone()
    moved[0, 0, 3, 2] += 0.003
    moved[1, 0, 4, 1] -= 0.25
    got = largest_change_db(x, moved, scale)
    assert got.tolist() == pytest.approx(
        [scale.epsilon_db(0.003), scale.epsilon_db(0.25)], rel=1e-4
    )
    by_bin = ZScore(ZScoreSettings(tuple([0.0] * 64), tuple(float(m) for m in range(1, 65))))
    assert float(largest_change_db(x, moved, by_bin)[1]) == pytest.approx(0.25 * 6.67 * 5, rel=1e-4)


def test_the_mean_change_is_in_db():
    scale = Scale(ScaleSettings(top_db=20.0))
    x = torch.full((1, 1, 4, 5), 0.5)
    moved = x.clone()
    moved[0, 0, :2] -= 0.1
    assert float(mean_change_db(x, moved, scale)) == pytest.approx(scale.epsilon_db(0.1) / 2)


# Whether it is still the same speech


def ratio(clean, found):
    return 10 * np.log10(np.sum(clean**2) / np.sum((clean - found) ** 2))


def spectral_distance(clean, found):
    """Gray and Markel's formula, frame by frame, with a spectrum of scipy's."""
    spectra = [
        np.abs(signal.stft(each, window="hann", nperseg=512, noverlap=256, padded=False,
                           boundary=None)[2]) ** 2
        for each in (clean, found)
    ]  # fmt: skip
    floor, loudest = spectra[0].max() * 1e-8, spectra[0].sum(axis=0).max()
    distances = []
    for one, other in zip(*(each.T for each in spectra), strict=True):
        if one.sum() > loudest * 1e-4:
            difference = 10 * np.log10(np.maximum(one, floor) / np.maximum(other, floor))
            distances.append(math.sqrt(np.mean(difference**2)))
    return np.mean(distances)


def theirs(name, files):
    """Return what the package says of two files."""
    clean, found = (soundfile.read(file)[0] for file in files)
    if name == "pesq":
        import pesq

        return pesq.pesq(16_000, clean, found, "wb")
    if name == "stoi":
        return pystoi.stoi(clean, found, 16_000)
    if name == "dnsmos":
        # Of 2.5 s it takes one window too.
        return dnsmos.run(found, sr=16_000)["ovrl_mos"]
    return {"snr_db": ratio, "log_spectral_distance_db": spectral_distance}[name](clean, found)


@pytest.fixture(scope="module")
def clips(real_data):
    """Return three speakers' ways to say one sentence angrily, (3, T)."""
    names = [f"Actor_0{n}/03-01-05-01-01-01-0{n}.wav" for n in (1, 2, 3)]
    sounds = [soundfile.read(real_data("ravdess") / name)[0][8_000:48_000] for name in names]
    return torch.from_numpy(np.stack([each / np.abs(each).max() / 2 for each in sounds]))


EACH = [pytest.param(name, marks=[NEEDS_PESQ] if name == "pesq" else []) for name in MEASURES]


@pytest.mark.real_corpus
@pytest.mark.parametrize("name", EACH)
def test_a_measure_is_what_its_package_or_its_formula_says_of_two_files(name, clips, tmp_path):
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0)).double()
    pair = clips[:1], (clips + 0.01 * noise)[:1]
    files = [tmp_path / "clean.wav", tmp_path / "found.wav"]
    for file, sound in zip(files, pair, strict=True):
        soundfile.write(file, sound[0].numpy(), 16_000, subtype="DOUBLE")
    (told,) = measured(*pair, 16_000, (name,))
    assert told[name] == pytest.approx(theirs(name, files), rel=1e-4)


@pytest.mark.real_corpus
@pytest.mark.parametrize("name", EACH)
def test_the_worse_the_noise_the_worse_the_measure(name, clips):
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0)).double()
    levels = [0.001, 0.01, 0.1]
    told = [
        next(measured(clips[:1], clips[:1] + level * noise[:1], 16_000, (name,)))[name]
        for level in levels
    ]
    higher = MEASURES[name].better == "higher"
    assert told == sorted(told, reverse=higher)
    assert len(set(told)) == 3


@pytest.mark.real_corpus
@NEEDS_PESQ
def test_a_clip_of_the_class_in_place_of_each_loses_the_words(clips):
    """What wins every table of right answers: every clip replaced by another of its class."""
    told = list(measured(clips, clips.roll(1, 0), 16_000, ("stoi", "pesq", "snr_db")))
    assert max(words_understood(each["stoi"]) for each in told) < 0.5
    assert max(each["pesq"] for each in told) < 1.5
    assert max(each["snr_db"] for each in told) < 1.0
    # Nothing is wrong with its sound: what compares with nothing lets it pass.
    replaced, own = (
        next(measured(clips[:1], each, 16_000, ("dnsmos",)))["dnsmos"]
        for each in (clips[1:2], clips[:1])
    )
    assert replaced > own - 0.7


@pytest.mark.real_corpus
@NEEDS_PESQ
def test_sound_at_another_rate_is_brought_to_the_one_of_the_measures(clips):
    wide = torch.from_numpy(soxr.resample(clips[0].numpy(), 16_000, 48_000))[None]
    noisy = wide + 0.005 * torch.randn(wide.shape, generator=torch.Generator().manual_seed(0))
    at_16k = [torch.from_numpy(soxr.resample(each[0].numpy(), 48_000, 16_000))[None]
              for each in (wide, noisy)]  # fmt: skip
    assert next(measured(wide, noisy, 48_000, ("pesq",))) == next(
        measured(*at_16k, 16_000, ("pesq",))
    )


@NEEDS_PESQ
def test_what_cannot_be_told_is_not_a_number():
    silence = torch.zeros(1, 8_000)
    tone = 0.3 * torch.sin(torch.arange(1_600) / 5)[None]
    assert math.isnan(next(measured(silence, silence, 16_000, ("pesq",)))["pesq"])
    assert math.isnan(next(measured(tone, tone, 16_000, ("stoi",)))["stoi"])


def test_words_understood_follow_the_curve_of_taal():
    assert words_understood(9.6921 / 17.4906) == pytest.approx(0.5)
    assert words_understood(0.75) == pytest.approx(0.9685, abs=1e-4)


def test_a_missing_package_leaves_its_measure_out(monkeypatch):
    monkeypatch.setattr(
        "servax.evaluation.distortion.find_spec", lambda name: None if name == "pesq" else name
    )
    assert available() == tuple(name for name in MEASURES if name != "pesq")


def test_what_does_not_belong_together_is_refused():
    x = torch.zeros(2, 10)
    with pytest.raises(ShapeError, match=r"^moved has shape \(2, 9\), expected \(2, 10\), the"):
        signal_to_noise_ratio(x, x[:, 1:])
    with pytest.raises(ShapeError, match=r"^x has shape \(0, 4\), expected \(B, \.\.\.\) with"):
        signal_to_noise_ratio(torch.zeros(0, 4), torch.zeros(0, 4))
