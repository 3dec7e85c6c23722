"""What the page shows is what servax computes, put together by hand."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import soxr
import torch
from page_showing import show

from servax.errors import SettingError
from servax.features import LogMel
from servax.service import PageLimits, Refusal
from servax.service.inference import Models
from servax.service.page.demonstration import (
    Heard,
    Samples,
    Shown,
    ShowSettings,
    attempt,
    listen,
)


def by_hand(models: Models, sound: Samples) -> np.ndarray:
    """The way of a recogniser, step by step: level, log-Mel, repeated to its frames, scale."""
    recogniser = models.recogniser
    levelled = sound * 10 ** (-26 / 20) / np.sqrt(np.mean(sound.astype(np.float64) ** 2))
    logmel = LogMel.speech_16k()(torch.from_numpy(levelled.astype(np.float32))[None])[0, 0].numpy()
    frames = np.tile(logmel, (1, -(-373 // logmel.shape[1])))[:, :373]
    settings = recogniser.scale.settings
    unit = np.clip((frames - settings.top_db) / settings.window_db + 1, 0, 1)
    with torch.no_grad():
        logits = recogniser.network(torch.from_numpy(unit.astype(np.float32))[None, None])[0]
    powers = np.exp(logits.double().numpy() - float(logits.max()))
    return powers / powers.sum()


@pytest.fixture(scope="module")
def shown(models: Models, clip: Samples) -> Shown:
    return show(models, clip, 16_000, ShowSettings("pgd", 30.0, "oblivious"))


def test_probabilities_are_those_of_the_recogniser(models: Models, shown: Shown) -> None:
    oblivious, adaptive = shown.attempts
    for heard in (shown.clip.original, oblivious.attacked, oblivious.purified, adaptive.purified):
        np.testing.assert_allclose(heard.probabilities, by_hand(models, heard.sound), atol=1e-4)


def test_the_purified_sound_is_that_of_purify(models: Models, shown: Shown) -> None:
    assert shown.attempt is not None
    for given, made in (
        (shown.clip.original, shown.clip.purified),
        (shown.attempt.attacked, shown.attempt.purified),
    ):
        expected = models.purifier.purify(given.sound, 16_000)
        np.testing.assert_allclose(made.sound, expected, atol=1e-5)


def test_the_attack_is_heard_in_sixteen_bits_and_keeps_its_ratio(shown: Shown) -> None:
    original = shown.clip.original.sound.astype(np.float64)
    assert [each.knowledge for each in shown.attempts] == ["oblivious", "adaptive"]
    for each in shown.attempts:
        noise = each.attacked.sound - original
        ratio = 10 * np.log10(np.sum(original**2) / np.sum(noise**2))
        assert ratio >= 30.0
        assert each.snr_db == pytest.approx(ratio, abs=1e-6)
        np.testing.assert_array_equal(each.attacked.sound * 32768 % 1, 0.0)


def test_the_example_is_one_where_the_defence_works_until_it_is_known(shown: Shown) -> None:
    oblivious, adaptive = shown.attempts
    told = [shown.clip.labels[heard.answer] for heard in (shown.clip.original, oblivious.purified)]
    assert told == ["sad", "sad"]
    assert oblivious.attacked.answer != shown.clip.original.answer
    assert adaptive.purified.answer != shown.clip.original.answer


def test_who_knows_the_purifier_lowers_what_is_heard_behind_it(shown: Shown) -> None:
    place = shown.clip.original.answer
    behind = [each.purified.probabilities[place] for each in shown.attempts]
    assert behind[1] < behind[0]


def test_residuals_are_how_far_the_purifier_moves_the_input(models: Models, shown: Shown) -> None:
    recogniser = models.recogniser
    sound = torch.from_numpy(shown.clip.original.sound)[None]
    levelled = sound * 10 ** (-26 / 20) / sound.square().mean().sqrt()
    frames = LogMel.speech_16k()(levelled)
    unit = recogniser.scale(frames.repeat(1, 1, 1, 4)[..., :373])
    with torch.no_grad():
        moved = float((models.purifier(unit) - unit).abs().mean())
    assert shown.clip.residual == pytest.approx(moved, abs=1e-5)


def test_fgsm_is_one_step_of_the_gradient(models: Models, clip: Samples) -> None:
    original = listen(models, clip, 16_000).original
    once = attempt(models, original, ShowSettings("fgsm", 30.0), "oblivious")
    kept = attempt(models, original, ShowSettings("pgd", 30.0), "oblivious")
    place = original.answer
    assert once.attacked.probabilities[place] < original.probabilities[place]
    assert kept.attacked.probabilities[place] <= once.attacked.probabilities[place]


def test_without_an_attack_there_is_nobody(models: Models, clip: Samples) -> None:
    plain = show(models, clip, 16_000, ShowSettings("none"))
    assert plain.attempts == ()
    assert plain.attempt is None


def test_other_rates_are_heard_at_that_of_the_recogniser(models: Models, clip: Samples) -> None:
    faster = soxr.resample(clip, 16_000, 44_100, quality="HQ")
    heard = listen(models, faster, 44_100).original
    assert abs(len(heard.sound) - len(clip)) <= 1
    assert heard.answer == listen(models, clip, 16_000).original.answer


def test_all_that_travels_between_processes_can_be_pickled(shown: Shown) -> None:
    again = pickle.loads(pickle.dumps(shown))  # noqa: S301 -- our own bytes
    assert isinstance(again.clip.original, Heard)
    assert pickle.loads(pickle.dumps(attempt)) is attempt  # noqa: S301
    refusal = pickle.loads(pickle.dumps(Refusal(422, "silent", "A sentence.")))  # noqa: S301
    assert (refusal.status, refusal.code, str(refusal)) == (422, "silent", "A sentence.")


@pytest.mark.parametrize(
    ("sound", "sentence"),
    [
        (np.zeros(16_000), "clip is silent; record"),
        (np.full(16_000, 1e-6), "clip is silent; record"),
        (np.ones(500), r"is 0.031 s long, expected at least 0.05 s"),
        (np.full(16_000, np.nan), "NaN or infinite"),
    ],
)
def test_sounds_that_cannot_be_attacked(models: Models, sound: Samples, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence):
        show(models, sound.astype(np.float32), 16_000, ShowSettings())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attack": "cw"}, "attack is 'cw', expected one of fgsm, none, pgd"),
        ({"snr_db": 5.0}, "snr_db is 5.0, expected 10 to 60 dB"),
        ({"snr_db": float("nan")}, "snr_db is nan"),
        ({"snr_db": "loud"}, "snr_db is 'loud'"),
        ({"knowledge": "all"}, "knowledge is 'all', expected one of adaptive, oblivious"),
    ],
)
def test_settings_outside_their_rule(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        replace(ShowSettings(), **change)


def test_limits_outside_their_rule() -> None:
    with pytest.raises(SettingError, match="waiting is 0, expected a whole number"):
        PageLimits(waiting=0)
    with pytest.raises(SettingError, match="seconds is inf, expected a finite number"):
        PageLimits(seconds=float("inf"))
