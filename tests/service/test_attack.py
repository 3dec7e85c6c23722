"""What /v1/attack tells is what servax computes, put together by hand."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import page_examples
import pytest
import soundfile
import soxr
import torch
from service_running import Running, sound

from servax.features import LogMel, LogMelSettings
from servax.features.logmel import mel_filterbank
from servax.runtime import NoiseWiener
from servax.service import Decoded, Refusal
from servax.service.app import PAGE
from servax.service.attacking import bin_at, trial
from servax.service.inference import Models
from servax.service.responses import Classification, Heard, Trial

RATE = 16_000


def decoded(samples: np.ndarray, rate: int = RATE, container: str = "WAV") -> Decoded:
    channels = samples if samples.ndim == 2 else samples[:, None]
    return Decoded(channels.astype(np.float32), rate, container)


def wav(samples: np.ndarray, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, subtype, format="WAV")
    return file.getvalue()


def samples_of(heard: Heard) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(heard.sound)), dtype="float32")
    assert rate == RATE
    return samples


def by_hand(models: Models, sound: np.ndarray) -> np.ndarray:
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
def clip() -> np.ndarray:
    return soundfile.read(PAGE / "sad.flac", dtype="float32")[0]


@pytest.fixture(scope="module")
def trials(models: Models, clip: np.ndarray) -> dict[str, Trial]:
    kinds = ("none", "oblivious", "adaptive")
    return {each: trial(models, decoded(clip), "pgd", 30.0, each) for each in kinds}


def test_probabilities_are_those_of_the_recogniser(
    models: Models, trials: dict[str, Trial]
) -> None:
    for each in trials.values():
        for heard in (each.given, each.purified):
            told = heard.probabilities
            assert tuple(told) == models.recogniser.labels
            assert heard.label == max(told, key=told.__getitem__)
            # What is purified is heard before it is written in 16 bits.
            expected = by_hand(models, samples_of(heard))
            np.testing.assert_allclose(list(told.values()), expected, atol=2e-3)


def test_the_purified_sound_is_that_of_purify(models: Models, trials: dict[str, Trial]) -> None:
    for each in trials.values():
        expected = models.purifier.purify(samples_of(each.given), RATE)
        np.testing.assert_allclose(samples_of(each.purified), expected, atol=1 / 32768)


def test_an_attack_is_heard_in_sixteen_bits_and_keeps_its_ratio(
    clip: np.ndarray, trials: dict[str, Trial]
) -> None:
    np.testing.assert_array_equal(samples_of(trials["none"].given), clip)
    assert trials["none"].snr_db is None
    for knowledge in ("oblivious", "adaptive"):
        noise = samples_of(trials[knowledge].given).astype(np.float64) - clip
        ratio = 10 * np.log10(np.sum(clip.astype(np.float64) ** 2) / np.sum(noise**2))
        assert ratio >= 30.0
        assert trials[knowledge].snr_db == pytest.approx(ratio, abs=1e-6)


def test_the_sad_example_is_one_where_the_defence_works_until_it_is_known(
    trials: dict[str, Trial],
) -> None:
    assert [trials["none"].given.label, trials["oblivious"].purified.label] == ["sad", "sad"]
    assert trials["oblivious"].given.label != "sad"
    assert trials["adaptive"].purified.label != "sad"


def test_residuals_are_how_far_the_purifier_moves_the_input(
    models: Models, clip: np.ndarray, trials: dict[str, Trial]
) -> None:
    sound = torch.from_numpy(clip)[None]
    levelled = sound * 10 ** (-26 / 20) / sound.square().mean().sqrt()
    unit = models.recogniser.scale(LogMel.speech_16k()(levelled).repeat(1, 1, 1, 4)[..., :373])
    with torch.no_grad():
        moved = float((models.purifier(unit) - unit).abs().mean())
    assert trials["none"].residual == pytest.approx(moved, abs=1e-5)


def test_fgsm_is_one_step_of_the_gradient(
    models: Models, clip: np.ndarray, trials: dict[str, Trial]
) -> None:
    once = trial(models, decoded(clip), "fgsm", 30.0, "oblivious").given.probabilities["sad"]
    assert once < trials["none"].given.probabilities["sad"]
    assert trials["oblivious"].given.probabilities["sad"] <= once


def test_other_rates_and_channels_are_heard_as_one_at_the_rate_of_the_recogniser(
    models: Models, clip: np.ndarray, trials: dict[str, Trial]
) -> None:
    faster = soxr.resample(clip, RATE, 44_100, quality="HQ")
    heard = trial(models, decoded(np.stack([faster] * 2, 1), 44_100), "none", 30.0, "none").given
    assert abs(len(samples_of(heard)) - len(clip)) <= 1
    assert heard.label == trials["none"].given.label


def test_spectrograms_are_log_mels_in_tenths_of_decibels(trials: dict[str, Trial]) -> None:
    for heard in (trials["oblivious"].given, trials["none"].given):
        told = heard.spectrogram
        cells = np.frombuffer(base64.b64decode(told.tenths_db), "<i2").reshape(
            told.mels, told.frames
        )
        expected = LogMel.speech_16k()(torch.from_numpy(samples_of(heard))[None])[0, 0].numpy()
        np.testing.assert_allclose(cells / 10, expected, atol=0.051)
        assert told.hop_seconds == 0.016
        assert [hz for hz, _ in told.ticks] == [0, 250, 500, 1_000, 2_000, 4_000, 8_000]


@pytest.mark.parametrize("hz", [250, 1_000, 4_000])
def test_frequencies_stand_at_the_bins_that_answer_them(hz: int) -> None:
    filters = mel_filterbank(
        bins=8_001, mels=64, sample_rate=RATE, f_min=0.0, f_max=8_000.0, scale="htk"
    )
    loudest = int(filters[hz].argmax())  # bins of 1 Hz
    assert loudest <= bin_at(hz, LogMelSettings()) <= loudest + 1


def test_noise_and_its_filter_stand_where_a_purifier_does(models: Models, clip: np.ndarray) -> None:
    noisy = [replace(models, purifier=NoiseWiener(20.0, np.random.default_rng(3))) for _ in "ab"]
    (found,) = noisy[0].classify([decoded(clip)])
    cleaned = NoiseWiener(20.0, np.random.default_rng(3)).purify(clip, RATE)
    assert isinstance(found, Classification)
    np.testing.assert_allclose(
        list(found.after.probabilities.values()), by_hand(models, cleaned), atol=1e-4
    )
    assert found.residual > 0
    told = trial(noisy[1], decoded(clip), "fgsm", 30.0, "adaptive")
    given, purified = samples_of(told.given), samples_of(told.purified)
    assert 20 < 10 * np.log10(np.sum(given**2) / np.sum((purified - given) ** 2)) < 30
    assert told.residual > 0


@pytest.mark.parametrize("level", [0.0, 1e-6])
def test_silence_is_refused(models: Models, level: float) -> None:
    with pytest.raises(Refusal, match="The sound is silent; send one with speech") as refused:
        trial(models, decoded(np.full(RATE, level)), "none", 30.0, "none")
    assert (refused.value.status, refused.value.code) == (422, "silent")


def test_what_goes_beyond_full_scale_is_refused_unless_a_decoder_did_it(models: Models) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE)
    loud = 1.2 * noise / np.abs(noise).max()
    with pytest.raises(Refusal, match=r"has its loudest sample at 1\.2, expected at most 1"):
        trial(models, decoded(loud), "none", 30.0, "none")
    heard = trial(models, decoded(loud, container="MP3"), "none", 30.0, "none").given
    assert np.abs(samples_of(heard)).max() <= 1.0


@pytest.mark.parametrize("label", page_examples.EXAMPLES)
def test_examples_are_spoken_by_a_voice_nobody_heard(models: Models, label: str) -> None:
    kept, rate = soundfile.read(PAGE / f"{label}.flac", dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(kept, page_examples.spoken(label), atol=1 / 32768)
    heard = {*models.recogniser.speakers, *models.purifier.speakers}
    assert heard
    assert f"01{page_examples.VOICE}" not in heard


def lines(service: Running, body: bytes, query: str = "") -> list[dict[str, Any]]:
    answer = service.post(f"/v1/attack{query}", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_service_answers_what_the_library_computes(
    service: Running, models: Models, clip: np.ndarray
) -> None:
    body = wav(clip[:RATE])
    told = lines(service, body, "?method=fgsm&snr_db=20")
    assert told[0]["knowledge"] == "none"
    assert sorted(each["knowledge"] for each in told[1:]) == ["adaptive", "oblivious"]
    for each in told:
        expected = trial(models, decoded(clip[:RATE]), "fgsm", 20.0, each["knowledge"])
        for name in ("given", "purified"):
            assert each[name]["label"] == getattr(expected, name).label
            assert each[name]["sound"] == getattr(expected, name).sound
        assert each["residual"] == pytest.approx(expected.residual, rel=1e-5)
    assert lines(service, body, "?method=none") == [told[0]]
    assert json.loads(json.dumps(asdict(expected)))["given"].keys() == told[0]["given"].keys()


REFUSED = [
    ("", sound(5.1), 413, "too_long"),
    ("", b"RIFF", 415, "not_sound"),
    ("", wav(np.zeros(RATE)), 422, "silent"),
    ("", wav(np.full(RATE, 1.4), "FLOAT"), 422, "too_loud"),
    ("?method=cw", sound(), 422, "bad_parameter"),
    ("?snr_db=5", sound(), 422, "bad_parameter"),
    ("?snr_db=nan", sound(), 422, "bad_parameter"),
    ("?snr_db=loud", sound(), 422, "bad_parameter"),
    ("?knowledge=oblivious", sound(), 422, "bad_parameter"),
]


@pytest.mark.parametrize(("query", "body", "status", "code"), REFUSED)
def test_what_is_refused(service: Running, query: str, body: bytes, status: int, code: str) -> None:
    answer = service.post(f"/v1/attack{query}", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
