"""``servax certify`` on a linear model of sound, from recordings to shares."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from servax.cli import main

DRAWS = 60


@pytest.fixture(scope="module")
def words(own: str, voices: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("certified")
    return [
        *("certify", f"{own}:Sound", "--corpus", str(voices), "--groups", "3", "--out"),
        *(str(folder / "out"), "--noise", "0", "20", "--draws", str(DRAWS)),
        *("--draws-to-select", "10", "--alpha", "0.01"),
    ]


@pytest.fixture(scope="module")
def folder(words: list[str]) -> Path:
    assert main([*words, "--utterances", "6"]) == 0
    return Path(words[words.index("--out") + 1])


def test_shares_are_those_of_the_answers(folder: Path) -> None:
    found = pd.read_csv(folder / "certificate.csv", keep_default_na=False)
    told = json.loads((folder / "certificate.json").read_text())
    assert found.groupby("noise_db").size().tolist() == [6, 6]
    for row in told["shares"]:
        each = found[found["noise_db"] == row["noise_db"]]
        firm = each["snr_db"] <= row["snr_db"]
        assert row["firm"] == pytest.approx(firm.mean())
        right = each["answer"] == each["label"]
        assert row["firm_and_right"] == pytest.approx((firm & right).mean())
    assert (folder / "certificate.png").read_bytes().startswith(b"\x89PNG")


def test_noise_that_turns_no_answer_certifies_what_the_draws_allow(folder: Path) -> None:
    found = pd.read_csv(folder / "certificate.csv", keep_default_na=False)
    quiet = found[found["noise_db"] == 20]
    chord = 0.1 / math.sqrt(3 * 16_000) * stats.norm.ppf(0.01 ** (1 / DRAWS))
    most = -20 * math.log10(chord * math.sqrt(1 - chord**2 / 4))
    assert quiet["snr_db"].min() == pytest.approx(most, abs=1e-3)
    assert (quiet["answer"] == quiet["label"]).mean() >= 0.8
    assert np.isinf(found.loc[found["answer"] == "", "snr_db"]).all()


def test_what_is_certified_is_not_heard_again(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {path: path.stat().st_mtime_ns for path in folder.glob("stages/*/done.json")}
    assert len(stages) == 12
    assert main([*words, "--utterances", "8", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    again = {path: path.stat().st_mtime_ns for path in folder.glob("stages/*/done.json")}
    assert stages.items() <= again.items()
    assert len(again) == 16
