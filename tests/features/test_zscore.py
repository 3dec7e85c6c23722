"""The z-score scale against scikit-learn's StandardScaler, and back from saved settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from servax.corpora import Corpus
from servax.errors import SettingError, ShapeError
from servax.features import (
    Features,
    Scale,
    ScaleSettings,
    ZScore,
    ZScoreSettings,
    fit_scale,
    make_scale,
)

WIDTH = 6.67


@pytest.fixture
def logmels() -> list[NDArray[np.float32]]:
    """Return nine spectrograms (6, F), quiet and loud, each bin with its own level and spread."""
    draws = np.random.default_rng(0)
    levels, spreads = draws.uniform(-90, 10, (6, 1)), draws.uniform(2, 20, (6, 1))
    loudness = draws.uniform(-10, 10, 9)
    return [
        (levels + gain + spreads * draws.normal(size=(6, 5 + 3 * i))).astype(np.float32)
        for i, gain in enumerate(loudness)
    ]


def reference(logmels: list[NDArray[np.float32]]) -> StandardScaler:
    frames = np.concatenate(logmels, axis=1).T.astype(np.float64)  # (N, M)
    return StandardScaler().fit(frames)


def test_it_is_scikit_learns_standard_scaler(logmels: list[NDArray[np.float32]]) -> None:
    scale, oracle = ZScore.fit(iter(logmels)), reference(logmels)
    np.testing.assert_allclose(scale.settings.mean, oracle.mean_, atol=1e-6)
    np.testing.assert_allclose(scale.settings.sd, oracle.scale_, atol=1e-6)
    for logmel in logmels:
        expected = np.clip(0.5 + oracle.transform(logmel.T.astype(np.float64)).T / WIDTH, 0, 1)
        given = torch.from_numpy(logmel).reshape(1, 1, *logmel.shape)
        np.testing.assert_allclose(scale(given)[0, 0], expected, atol=1e-6)
        levels = oracle.inverse_transform(((expected - 0.5) * WIDTH).T).T
        back = scale.inverse(torch.from_numpy(expected))
        np.testing.assert_allclose(back, levels, atol=1e-4)


def test_the_papers_grid_is_that_of_18(logmels: list[NDArray[np.float32]]) -> None:
    """ε = .003 … .015 on [0, 1] is .02 … .1 standard deviations, as [18] attacks."""
    scale, oracle = ZScore.fit(logmels), reference(logmels)
    x = torch.full((6, 4), 0.4, dtype=torch.float64)
    for epsilon, ours in zip((0.003, 0.006, 0.009, 0.012, 0.015), (2, 4, 6, 8, 10), strict=True):
        change = (scale.inverse(x + epsilon) - scale.inverse(x)).numpy() / oracle.scale_[:, None]
        np.testing.assert_allclose(change, ours / 100, rtol=1e-3)
        decibels = ours / 100 * oracle.scale_.mean()
        assert scale.epsilon_db(epsilon) == pytest.approx(decibels, rel=1e-3)


def test_a_bin_that_never_varied_is_measured_in_db() -> None:
    logmels = [np.stack([np.full(5, -100 / 3), np.arange(5.0) + i]) for i in range(3)]
    scale = ZScore.fit(logmels)
    assert scale.settings.sd[0] == 0.0
    assert reference([part.astype(np.float64) for part in logmels]).scale_[0] == 1.0
    x = scale(torch.tensor([[-100 / 3, -100 / 3 + 1.0, 0.0], [2.0, 3.0, 4.0]]))
    expected = torch.tensor([0.5, 0.5 + 1 / WIDTH, 1.0])
    torch.testing.assert_close(x[0], expected, rtol=0, atol=1e-5)
    assert bool(torch.isfinite(scale.inverse(x)).all())


def test_what_lies_beyond_the_width_is_clamped_and_has_no_gradient() -> None:
    scale = ZScore(ZScoreSettings((0.0,), (10.0,)))
    levels = torch.tensor([[-34.0, -33.0, 0.0, 33.0, 34.0]], requires_grad=True)
    scaled = scale(levels)
    assert scaled[0, [0, 4]].tolist() == [0.0, 1.0]
    (gradient,) = torch.autograd.grad(scaled.sum(), levels)
    assert gradient[0].tolist() == pytest.approx([0, 1 / 66.7, 1 / 66.7, 1 / 66.7, 0])


@pytest.mark.parametrize(
    "scale",
    [Scale(ScaleSettings(3.25, 70.0)), ZScore(ZScoreSettings((-20.5, -30.0), (12.0, 0.0), 6.0))],
)
def test_saved_settings_give_the_scale_back(scale: Scale | ZScore) -> None:
    saved = json.loads(json.dumps(asdict(scale.settings)))
    back = make_scale(saved, mels=2)
    assert type(back) is type(scale)
    assert back.settings == scale.settings
    x = torch.linspace(-60, 10, 12).reshape(1, 1, 2, 6)
    assert torch.equal(back(x), scale(x))
    assert not back.state_dict()  # nothing of it is kept with the weights of a network


def test_the_settings_of_the_window_are_as_they_were() -> None:
    """The keys of stages hash them: another name would compute every run again."""
    scale = Scale.fit([np.array([[3.0]])])
    assert asdict(scale.settings) == {"top_db": 3.0, "window_db": 80.0}


def test_the_training_part_alone_is_looked_at(make_corpus: Callable[..., Corpus]) -> None:
    corpus = make_corpus(6)
    levels = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 3, 4), np.float32)
    features = Features(levels, tuple(str(name) for name in corpus.utterances["utterance"]))
    part = corpus.subset(speakers=["s1"])  # utterances 1 and 4
    scale = fit_scale(part, features, kind="z-score")
    assert scale.settings == ZScoreSettings((2.5,) * 3, (1.5,) * 3)
    with pytest.raises(SettingError, match=r"scale is 'zscore', expected one of window, z-score\."):
        fit_scale(part, features, kind="zscore")  # type: ignore[arg-type]


def test_printing_shows_the_size() -> None:
    assert repr(ZScore(ZScoreSettings((0.0, 1.0), (1.0, 2.0)))) == "ZScore(mels=2, width_sd=6.67)"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (((), ()), "mean, sd is (0, 0), expected one number of each for each Mel bin."),
        (((1.0,), (1.0, 2.0)), "mean, sd is (1, 2), expected one number of each for each Mel bin."),
        (((1.0,), (-1.0,)), "sd is -1.0, expected standard deviations of at least 0 dB."),
        (((float("nan"),), (1.0,)), "mean is 'not finite', expected a finite number in dB for"),
        (("loud", (1.0,)), "mean is 'loud', expected a finite number in dB for each Mel bin."),
        ((None, (1.0,)), "mean is None, expected a finite number in dB for each Mel bin."),
        (((1.0,), (1.0,), 0.0), "width_sd is 0.0, expected a width above 0 standard deviations."),
    ],
)
def test_settings_outside_their_rule_are_refused(settings: tuple, sentence: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
        ZScoreSettings(*settings)


def test_other_mel_bins_are_refused() -> None:
    settings = ZScoreSettings((1.0, 2.0), (1.0, 2.0))
    with pytest.raises(SettingError, match=r"mean, sd is '2 Mel bins', expected the 64 of the fr"):
        make_scale(asdict(settings), mels=64)
    with pytest.raises(ShapeError, match=r"shape \(1, 1, 3, 4\), expected \(\.\.\., 2, F\), one"):
        ZScore(settings)(torch.zeros(1, 1, 3, 4))
    with pytest.raises(ShapeError, match=r"scaled has shape \(2,\), expected \(\.\.\., 2, F\)"):
        ZScore(settings).inverse(torch.zeros(2))


@pytest.mark.parametrize(
    ("logmels", "sentence"),
    [
        ([], "logmels is 'empty', expected at least one spectrogram to fit a scale on."),
        ([np.zeros((2, 3)), np.zeros((3, 3))], "spectrogram 1 has shape (3, 3), expected (..., 2"),
        ([np.zeros(3)], "spectrogram 0 has shape (3,), expected (..., M, F)."),
        ([np.zeros((2, 0))], "spectrogram 0 has shape (2, 0), expected (..., M, F)."),
        ([np.array([[1, np.nan]])], "spectrogram 0 is 'not finite', expected finite levels in dB."),
    ],
)
def test_fit_refuses_what_has_no_spread(logmels: list[NDArray[np.float64]], sentence: str) -> None:
    with pytest.raises((SettingError, ShapeError), match=f"^{re.escape(sentence)}"):
        ZScore.fit(logmels)
