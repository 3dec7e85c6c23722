"""Pictures and words of the page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from servax.features import LogMelSettings
from servax.features.logmel import mel_filterbank
from servax.service.page.demonstration import Attempt, Clip, Heard, Shown, ShowSettings
from servax.service.page.drawing import bin_at, both_attackers, picture, spectrograms, verdict
from servax.service.page.layout import answer, sixteen_bit

SETTINGS = LogMelSettings()


def heard(*probabilities: float) -> Heard:
    sound = np.linspace(-0.5, 0.5, 1_000, dtype=np.float32)
    return Heard(sound, np.linspace(-90, 0, 320, dtype=np.float32).reshape(64, 5), probabilities)


def made(
    oblivious: tuple[Heard, Heard], adaptive: tuple[Heard, Heard], settings: ShowSettings
) -> Shown:
    clip = Clip(heard(0.9, 0.1), heard(0.8, 0.2), 0.05, ("<angry>", "sad"), SETTINGS)
    if settings.attack == "none":
        return Shown(settings, clip, ())
    attempts = (
        Attempt("oblivious", 30.04, *oblivious, 0.06),
        Attempt("adaptive", float("inf"), *adaptive, 0.07),
    )
    return Shown(settings, clip, attempts)


def plain(text: str) -> str:
    return re.sub(r"</?b>", "", text).replace("&nbsp;", " ")


HELD = (heard(0.2, 0.8), heard(0.7, 0.3))
LOST = (heard(0.6, 0.4), heard(0.1, 0.9))


@pytest.mark.parametrize("hz", [250, 1_000, 4_000])
def test_frequencies_stand_at_the_bins_that_answer_them(hz: int) -> None:
    filters = mel_filterbank(
        bins=8_001, mels=64, sample_rate=16_000, f_min=0.0, f_max=8_000.0, scale="htk"
    )
    loudest = int(filters[hz].argmax())  # bins of 1 Hz
    assert loudest <= bin_at(hz, SETTINGS) <= loudest + 1


def test_pictures_share_one_scale() -> None:
    loud = np.zeros((64, 20), dtype=np.float32)
    quiet = loud - 35.0
    first, second = (imread(io.BytesIO(png)) for png in spectrograms((loud, quiet), SETTINGS))
    assert first.shape == second.shape
    middle = (first.shape[0] // 2, first.shape[1] // 2)
    assert first[middle][:3].sum() > 2.0  # the loudest is the light end of the map
    assert 0.3 < second[middle][:3].sum() < 2.0


def test_the_sentence_says_what_each_attacker_gets() -> None:
    shown = made(HELD, LOST, ShowSettings())
    text = plain(verdict(shown))
    assert "The attack turns &lt;angry&gt; (90 %) into sad (80 %)." in text
    assert "Behind the purifier it is &lt;angry&gt; (70 %)." in text
    assert "knows the recogniser and the purifier gets sad (90 %) behind it." in text
    assert "servax-held" in text


def test_a_lost_sound_is_called_lost() -> None:
    shown = made(HELD, LOST, ShowSettings(knowledge="adaptive"))
    text = plain(verdict(shown))
    assert "The bare recogniser still hears &lt;angry&gt; (90 %)." in text
    assert "sad (90 %): not given back." in text
    assert "servax-lost" in text
    assert "knows the recogniser only gets &lt;angry&gt; (70 %) behind it." in text


def test_without_an_attack_the_cost_is_told() -> None:
    shown = made(HELD, LOST, ShowSettings("none"))
    assert "Purified, it stays" in verdict(shown)
    costly = replace(shown, clip=replace(shown.clip, purified=heard(0.1, 0.9)))
    assert "costs something here: it becomes" in verdict(costly)


def test_the_table_has_both_attackers_whoever_is_chosen() -> None:
    for knowledge in ("oblivious", "adaptive"):
        table = both_attackers(made(HELD, LOST, ShowSettings(knowledge=knowledge)))
        rows = re.findall(r"<tr.*?</tr>", table)[1:]
        cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
        assert [row[0] for row in cells] == [
            "nobody (the clip as it is)",
            "knows the recogniser only",
            "knows the recogniser and the purifier",
        ]
        assert [row[1] for row in cells] == ["–", "30.0 dB", "no change"]
        assert [row[4] for row in cells] == ["0.0500", "0.0600", "0.0700"]
        chosen = [number for number, row in enumerate(rows) if "servax-chosen" in row]
        assert chosen == [1 if knowledge == "oblivious" else 2]
        assert "<angry>" not in table


def test_a_picture_is_its_bytes_and_has_words() -> None:
    text = picture(b"png", 'heard as "a"')
    assert base64.b64encode(b"png").decode() in text
    assert 'alt="heard as &quot;a&quot;"' in text


def test_answers_stand_in_the_order_of_the_page() -> None:
    parts = answer(made(HELD, LOST, ShowSettings()))
    assert len(parts) == 11
    assert [part["sad"] for part in parts[1:10:3]] == [0.1, 0.8, 0.3]
    assert [part[0] for part in parts[3:10:3]] == [16_000] * 3


def test_sounds_are_clipped_not_wrapped() -> None:
    sound = np.array([-2.0, -1.0, 0.0, 0.25, 1.0, 2.0], dtype=np.float32)
    np.testing.assert_array_equal(sixteen_bit(sound), [-32768, -32768, 0, 8192, 32767, 32767])
