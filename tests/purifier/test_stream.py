"""Streams of sound: the latency that is stated, and the result of the whole sound behind it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor, nn

from servax.errors import ServaxError, SettingError, ShapeError
from servax.features import FrontEndSettings, Scale, ScaleSettings
from servax.pretrained import folder
from servax.purifier import Purifier
from servax.runtime.stream import SoundStream, SoundWindows


class Context(nn.Module):
    """Changes each element by what the whole input holds, so that every window is another."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * (x.mean(dim=(2, 3), keepdim=True) - x)


@pytest.fixture
def cleaner() -> Purifier:
    return Purifier(Context(), Scale(ScaleSettings(top_db=40.0)), FrontEndSettings()).eval()


def voice(seconds: float, rate: int = 16_000) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    loud = 0.05 + 0.04 * np.sin(0.9 * time) * np.sin(2 * np.pi * 2.3 * time)
    return (loud * random.normal(0, 1, len(time))).astype(np.float32)


def chunks(sound: NDArray[np.float32], sizes: list[int]) -> list[NDArray[np.float32]]:
    cuts = np.cumsum(np.resize(sizes, 1 + len(sound) // min(sizes)))
    return np.split(sound, cuts[cuts < len(sound)])


@pytest.mark.parametrize("sizes", [[160], [1, 7000, 333], [200_000]])
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_chunks_do_not_matter_and_nothing_is_lost(
    cleaner: Purifier, sizes: list[int], rate: int
) -> None:
    sound = voice(8.13, rate)
    whole = cleaner.stream(rate)
    expected = np.concatenate([whole.feed(sound), whole.finish()])
    stream = cleaner.stream(rate)
    found = [*(stream.feed(chunk) for chunk in chunks(sound, sizes)), stream.finish()]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert len(expected) == len(sound)


@pytest.mark.parametrize(("hop", "ahead"), [(0.5, 0.25), (0.25, 0.0), (1.0, 1.0)])
def test_the_latency_is_the_stated_one(cleaner: Purifier, hop: float, ahead: float) -> None:
    stream = cleaner.stream(16_000, hop_seconds=hop, look_ahead_seconds=ahead)
    assert stream.latency_seconds == hop + ahead
    heard = given = worst = 0
    for chunk in chunks(voice(9.0), [100]):
        heard += len(chunk)
        given += len(stream.feed(chunk))
        worst = max(worst, heard - given)
        assert heard - given <= stream.windows.latency + len(chunk)
    assert worst >= 0.9 * stream.windows.latency


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_the_steady_state_is_the_result_of_the_whole_sound(cleaner: Purifier, rate: int) -> None:
    sound = voice(14.2, rate)
    stream = cleaner.stream(rate)
    found = np.concatenate([stream.feed(sound), stream.finish()])
    # The whole sound at once, by the weights of its windows: another way than the stream's.
    expected = np.zeros_like(sound)
    for start, stop, weights in stream.windows.weighted(len(sound)):
        expected[start:stop] += weights * cleaner.clip_at(rate)(sound[start:stop])
    steady = stream.windows.length
    np.testing.assert_allclose(found[steady:], expected[steady:], atol=1e-6)
    assert np.abs(found[:steady] - expected[:steady]).max() > 1e-4  # it knows less there


def test_a_whole_sound_in_chunks_is_the_sound_at_once(cleaner: Purifier) -> None:
    sound = voice(20.0)
    stream = cleaner.whole_stream(16_000)
    found = [*(stream.feed(chunk) for chunk in chunks(sound, [1000])), stream.finish()]
    np.testing.assert_array_equal(np.concatenate(found), cleaner.purify(sound, 16_000))


def test_memory_is_one_window_however_long_the_sound() -> None:
    windows = SoundWindows(1000, hop=500, look_ahead=250, fade=125)
    stream = SoundStream(lambda window: window, windows, 1)
    for chunk in chunks(voice(10.0), [100]):
        stream.feed(chunk)
        assert len(stream._kept) <= windows.length


@pytest.mark.parametrize("total", [1, 749, 750, 999, 1000, 1001, 1500, 1501, 9876])
def test_weights_add_up_to_one_and_identity_stays(total: int) -> None:
    windows = SoundWindows(1000, hop=500, look_ahead=250, fade=125)
    sound = np.random.default_rng(1).normal(size=total).astype(np.float32)
    weight = np.zeros(total, dtype=np.float32)
    for start, stop, weights in windows.weighted(total):
        assert stop - start <= 1000
        weight[start:stop] += weights
    np.testing.assert_allclose(weight, 1.0, atol=1e-6)
    for live in (True, False):
        stream = SoundStream(lambda window: window, windows, 1, live=live)
        given = np.concatenate([stream.feed(sound), stream.finish()])
        np.testing.assert_allclose(given, sound, atol=1e-6)


def test_packaged_purifier_in_a_stream_is_near_its_result_at_once() -> None:
    cleaner = Purifier.from_pretrained(folder("ssad-plus-synthetic"))
    sound = voice(8.0)
    stream = cleaner.stream(16_000)
    found = np.concatenate([stream.feed(sound), stream.finish()])
    assert len(found) == len(sound)
    assert np.isfinite(found).all()
    assert int(cleaner.clip_seconds * 16_000) == 372 * 256


def test_refusals(cleaner: Purifier) -> None:
    with pytest.raises(SettingError, match=r"hop_seconds is 0.01, expected at least 0.05 s"):
        cleaner.stream(16_000, hop_seconds=0.01)
    with pytest.raises(SettingError, match=r"look_ahead_seconds is 9.0, expected 0 to 5.95 s"):
        cleaner.stream(16_000, look_ahead_seconds=9.0)
    with pytest.raises(SettingError, match=r"sample_rate is 10, expected a rate in \[1000, 76"):
        cleaner.stream(10)
    stream = cleaner.stream(16_000)
    with pytest.raises(ShapeError, match=r"chunk has shape \(2, 3\), expected \(T,\) mono"):
        stream.feed(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(SettingError, match="chunk is 'not finite'"):
        stream.feed(np.full(3, np.inf, dtype=np.float32))
    stream.feed(np.zeros(10, dtype=np.float32))
    with pytest.raises(ShapeError, match=r"all chunks together has shape \(10,\), expected \(T,\)"):
        stream.finish()
    done = cleaner.stream(16_000)
    assert len(done.finish()) == 0
    with pytest.raises(ServaxError, match="this stream is finished"):
        done.feed(np.zeros(10, dtype=np.float32))
