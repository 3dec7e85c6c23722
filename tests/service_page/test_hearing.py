"""Files that people send: read, or refused in a sentence that names no path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from servax.service import PageLimits, Refusal
from servax.service.inference import Models
from servax.service.page.demonstration import Samples, hear, listen_to_file, speak_example

LIMITS = PageLimits(seconds=3.0, upload_bytes=500_000)


def test_the_example_is_the_same_each_time_and_for_voices_nobody_heard(
    models: Models, clip: Samples
) -> None:
    rate, again = speak_example(models)
    np.testing.assert_array_equal(again, clip)
    assert rate == 16_000
    assert np.abs(clip).max() == pytest.approx(10 ** (-15 / 20))
    assert "01m1" not in {*models.recogniser.speakers, *models.purifier.speakers}


def test_a_file_is_heard_as_its_samples(models: Models, clip: Samples, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.stack([clip, clip], axis=1), 16_000, subtype="PCM_16")
    heard = listen_to_file(models, path, LIMITS).original.sound
    np.testing.assert_allclose(heard, clip, atol=1 / 32768)


@pytest.mark.parametrize(
    ("name", "status", "sentence"),
    [
        ("long.wav", 413, r"is 3\.5 s long, expected at most 3 s; cut it"),
        ("many.wav", 422, "has 3 channels, expected at most 2; mix them down"),
        ("large.wav", 413, r"has 0\.6 MB, expected at most 0\.5 MB; send a shorter"),
        ("floats.wav", 422, "The clip has its loudest sample at 32767, expected at most 1, which"),
        ("text.wav", 422, "The clip is not sound that libsndfile reads"),
        ("empty.wav", 422, r"The clip is empty \(0 bytes\); send another one\."),
        ("gone.wav", 410, "no longer here; send it again"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, status: int, sentence: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 8_000 * 3)
    soundfile.write(tmp_path / "long.wav", np.resize(noise, 28_000), 8_000)
    soundfile.write(tmp_path / "many.wav", np.stack([noise] * 3, axis=1), 8_000)
    soundfile.write(tmp_path / "large.wav", np.resize(noise, 300_000), 192_000)
    loud = 32_767 * np.clip(noise, -1, 1) / np.abs(noise).max()
    soundfile.write(tmp_path / "floats.wav", loud, 16_000, "FLOAT")
    (tmp_path / "text.wav").write_text("this is no sound")
    (tmp_path / "empty.wav").touch()
    with pytest.raises(Refusal, match=sentence) as caught:
        hear(tmp_path / name, 16_000, LIMITS)
    assert caught.value.status == status
    assert str(tmp_path) not in str(caught.value)
