"""The tables of a run on sound against scikit-learn on the rows, attack by attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import recall_score

from servax.errors import ServaxError
from servax.evaluation.records import Records
from servax.report import Measures, collect, write_report
from servax.report.sound_tables import on_sound, ratio_figure, sound_tables, sound_verdict

CLASSES = ("angry", "happy", "neutral", "sad")
PROVENANCE = {"command": "servax run recipe.yaml", "commit": "0123abc", "corpus": "made-up"}
SPEAKERS, EACH = 6, 12
BUDGETS = {60.0: 0.001, 40.0: 0.01}
TRIED = (("pgd", "oblivious"), ("apgd", "oblivious"), ("pgd-twin", "transfer"), ("pgd", "adaptive"))
SYSTEMS = {"undefended": (0.9, 0.6), "low-pass": (0.8, 0.85), "mp3": (0.85, 0.95)}


def made() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    truth = np.tile(np.arange(len(CLASSES)), SPEAKERS * EACH // len(CLASSES))
    count = len(truth)
    parts = []
    for system, (clean, left) in SYSTEMS.items():
        told = [("none", "none", 0.0, clean)]
        for attack, known in TRIED:
            through = "bpda" if known == "adaptive" and system == "mp3" else known
            told += [(attack, through, epsilon, left) for epsilon in BUDGETS.values()]
        for attack, known, epsilon, share in told:
            wrong = (truth + rng.integers(1, len(CLASSES), count)) % len(CLASSES)
            answer = np.where(rng.uniform(size=count) < share, truth, wrong)
            parts.append(
                pd.DataFrame(
                    {
                        "utterance": [f"u{i:03d}" for i in range(count)],
                        "speaker": [f"s{i % SPEAKERS}" for i in range(count)],
                        "gender": "female",
                        "fold": 1,
                        "seed": 0,
                        "label": [CLASSES[i] for i in truth],
                        "prediction": [CLASSES[i] for i in answer],
                        "corpus": "made-up",
                        "target": "whisper",
                        "defence": system,
                        "attack": attack,
                        "strength": epsilon,
                        "knowledge": known,
                        "norm": "none" if attack == "none" else "snr",
                        "epsilon": epsilon,
                        "steps": 0 if attack == "none" else 20,
                        "step_size": 0.0,
                        "restarts": 1,
                        "draws": 1,
                        "space": "waveform",
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def uar(rows: pd.DataFrame) -> float:
    """Return the UAR of rows in which an utterance is wrong where any row of it is."""
    wrong = rows[rows["prediction"] != rows["label"]].drop_duplicates("utterance")
    once = rows.drop_duplicates("utterance").set_index("utterance")
    answers = once["label"].copy()
    answers.loc[wrong["utterance"]] = "none of them"
    names = sorted(set(once["label"]))
    return 100 * float(recall_score(once["label"], answers, labels=names, average="macro"))


def test_the_worst_of_all_is_that_of_the_rows() -> None:
    frame = made()
    run = Measures(collect(frame))
    assert on_sound(run)
    attacked = frame["attack"] != "none"
    assert not on_sound(Measures(collect(frame.assign(norm=frame["norm"].mask(attacked, "l2")))))
    tables = {table.name: table for table in sound_tables(run)}
    assert list(tables) == [
        "table-1",
        "table-1-adaptive",
        "table-1-oblivious",
        "table-1-transfer",
        "intervals",
    ]
    assert tables["table-1"].columns == ["defence", "clean", "60 dB", "40 dB"]
    numbers = tables["table-1"].numbers
    assert numbers is not None
    told = numbers.set_index(["defence", "snr_db"])["uar_percent"]
    adaptive = tables["table-1-adaptive"].numbers
    assert adaptive is not None
    known = adaptive.set_index(["defence", "snr_db"])["uar_percent"]
    for system in SYSTEMS:
        rows = frame[frame["defence"] == system]
        assert told[system, np.inf] == pytest.approx(uar(rows[rows["attack"] == "none"]), abs=0.06)
        for decibels, epsilon in BUDGETS.items():
            at = rows[rows["epsilon"] <= epsilon]
            assert told[system, decibels] == pytest.approx(uar(at), abs=0.06)
            through = at[at["knowledge"].isin(["none", "adaptive", "bpda"])]
            assert known[system, decibels] == pytest.approx(uar(through), abs=0.06)


def test_the_report_says_first_what_the_worst_attacker_leaves(
    tmp_path: Path, check: Callable[[Figure], None]
) -> None:
    run = Measures(collect(made()))
    (sentence,) = sound_verdict(run)
    assert sentence.startswith(
        "The worst of all attackers, the adaptive one among them, leaves mp3"
    )
    check(ratio_figure(run))
    paths = write_report(Records(made(), PROVENANCE), tmp_path)
    text = paths.markdown.read_text(encoding="utf-8")
    assert "UAR (%) under attack on sound by the worst of all" in text
    assert "FGSM" not in text


def test_oblivious_results_never_stand_alone() -> None:
    frame = made()
    alone = frame[~((frame["defence"] == "mp3") & (frame["knowledge"] == "bpda"))]
    with pytest.raises(ServaxError, match="mp3 has oblivious results and no adaptive ones"):
        collect(alone)
