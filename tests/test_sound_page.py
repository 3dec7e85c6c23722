"""The figures of docs/sound.md are those of its records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sound.md").read_text(encoding="utf-8")
WAYS = ("undefended", "direct", "sound", "stream")


@pytest.mark.parametrize(
    ("record", "after"), [("figures", ""), ("uncorrected", ", change applied once")]
)
@pytest.mark.parametrize("state", ["clean", "attacked"])
def test_a_row_is_its_record(record: str, after: str, state: str) -> None:
    place = ROOT / "results" / "purified_sound" / f"{record}.json"
    figures = json.loads(place.read_text(encoding="utf-8"))
    row = re.search(rf"^\| {state}{after} \|(.*)\|$", PAGE, flags=re.MULTILINE)
    assert row is not None
    shown = [cell.strip() for cell in row[1].split("|")]
    assert shown == [f"{figures['uar'][state][way]:.1f}" for way in WAYS]
    assert f"{figures['utterances']} utterances of twelve actors" in PAGE


def test_the_quartiles_are_those_of_the_record() -> None:
    place = ROOT / "results" / "purified_sound" / "figures.json"
    told = json.loads(place.read_text(encoding="utf-8"))["quartiles"]
    snr, lsd = ([f"{told[name][i]:.1f}" for i in (0, 2)] for name in ("snr", "lsd"))
    sentence = " ".join(PAGE.split())
    assert f"an SNR between {snr[0]} and {snr[1]} dB" in sentence
    assert f"a log-spectral distance between {lsd[0]} and {lsd[1]} dB" in sentence


def test_the_intervals_are_those_of_the_record() -> None:
    place = ROOT / "results" / "purified_sound" / "figures.json"
    told = json.loads(place.read_text(encoding="utf-8"))["points_from_direct"]
    (more, *clean), (less, *attacked) = (told[state]["sound"] for state in ("clean", "attacked"))
    sentence = " ".join(PAGE.split()).replace("−", "-")
    assert f"{more} points more than by the log-Mel on clean input" in sentence
    assert f"paired: {clean[0]} to {clean[1]}) and {-less} less" in sentence
    assert f"under the attack ({attacked[0]} to {attacked[1]})" in sentence
