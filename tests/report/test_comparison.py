"""Two runs compared: by hand, against the slow paired bootstrap, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from servax.errors import ServaxError
from servax.evaluation import records
from servax.evaluation.records import Records
from servax.report import home_of, read_run, write_comparison
from servax.report.comparison import (
    Side,
    adaptive_steps,
    differences,
    pair,
    report,
    settings_table,
)

NAMES = ("first", "second")
SETTINGS = {"name": "x", "width": 16, "attacks": {"step": 0.003}, "seed": 0}
PROVENANCE: dict[str, Any] = {
    "scheme": "four",
    "classes": ["a", "b"],
    "fold_hash": "0123",
    "scale": {"window_db": 80.0},
    "recipe": "x",
    "settings": SETTINGS,
}

# Speakers s (aab) and t (ab); two folds of one speaker each.
LABELS, SPEAKERS = "aabab", "ssstt"
HAND = {
    ("undefended", "none", 0.0, "none"): ("aabab", "aabab"),
    ("undefended", "pgd", 3.0, "oblivious"): ("bbbba", "bbbba"),
    ("undefended", "pgd", 6.0, "oblivious"): ("bbaba", "bbaba"),
    ("ssad", "none", 0.0, "none"): ("aabab", "abbab"),
    ("ssad", "pgd", 3.0, "oblivious"): ("aabab", "bbbab"),  # A 100; B a 1/3, b 1: 66.7
    ("ssad", "pgd", 6.0, "oblivious"): ("bbaba", "aabab"),  # A 0; B 100
    ("ssad", "pgd", 6.0, "adaptive"): ("bbaba", "abaab"),  # A 0; B a 2/3, b 1/2: 58.3
}


def frame(side: int) -> pd.DataFrame:
    parts = []
    for (defence, attack, strength, knowledge), predictions in HAND.items():
        part = pd.DataFrame(
            {
                "utterance": [f"u{i}" for i in range(5)],
                "speaker": list(SPEAKERS),
                "fold": [1 if s == "s" else 2 for s in SPEAKERS],
                "seed": 0,
                "label": list(LABELS),
                "prediction": list(predictions[side]),
                "target": "vgg16",
                "defence": defence,
                "attack": attack,
                "strength": strength,
                "knowledge": knowledge,
                "gender": "unknown",
                "corpus": "made-up",
            }
        )
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


POINTS = ["difference_points", "low_points", "high_points"]


def by_measure(*runs: Side) -> dict[tuple[str, str], dict[Any, Any]]:
    rows = differences(*runs).to_dict("records")
    return {(row["defence"], row["measure"]): row for row in rows}


@pytest.fixture
def first() -> Records:
    return Records(frame(0), PROVENANCE)


@pytest.fixture
def second() -> Records:
    settings = {**SETTINGS, "width": 32, "purifiers": {"ssad": {"epochs": 9}}, "name": "y"}
    return Records(frame(1), {**PROVENANCE, "settings": settings, "recipe": "y"})


def test_differences_by_hand(first: Records, second: Records) -> None:
    found = by_measure(*pair(first, second, names=NAMES))
    assert set(found) == {
        (defence, measure)
        for defence in ("undefended", "ssad")
        for measure in ("clean", "PGD mean", "adaptive PGD")
    }
    clean = found["ssad", "clean"]  # B: a 2/3, b 1
    assert (clean["a_percent"], clean["b_percent"]) == pytest.approx((100, 500 / 6))
    assert clean["difference_points"] == pytest.approx(-100 / 6)
    mean = found["ssad", "PGD mean"]
    assert (mean["a_percent"], mean["b_percent"]) == pytest.approx((50, (200 / 3 + 100) / 2))
    assert mean["difference_points"] == pytest.approx(100 / 3)
    adaptive = found["ssad", "adaptive PGD"]
    assert adaptive["difference_points"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    # The undefended target has no adaptive rows: its oblivious PGD-6 is one.
    assert found["undefended", "adaptive PGD"]["difference_points"] == 0


def test_interval_is_the_slow_paired_bootstrap(small: pd.DataFrame) -> None:
    rng = np.random.default_rng(5)
    better = small.assign(
        prediction=small["prediction"].mask(rng.uniform(size=len(small)) < 0.2, small["label"])
    )
    runs = pair(Records(small, {}), Records(better, {}), names=NAMES)
    found = by_measure(*runs)["ssad", "adaptive PGD"]
    chosen = (small["defence"] == "ssad") & (small["knowledge"] == "adaptive")
    a, b = small[chosen].reset_index(drop=True), better[chosen].reset_index(drop=True)
    speakers = sorted(set(a["speaker"]))

    def uar(part: pd.DataFrame) -> float:
        return 100 * (part["prediction"] == part["label"]).groupby(part["label"]).mean().mean()

    values = []
    for draw in np.random.default_rng(0).integers(0, len(speakers), (1000, len(speakers))):
        rows = np.concatenate([np.flatnonzero(a["speaker"] == speakers[i]) for i in draw])
        values.append(uar(b.iloc[rows]) - uar(a.iloc[rows]))
    assert found["difference_points"] == pytest.approx(uar(b) - uar(a))
    assert found["low_points"] == pytest.approx(np.quantile(values, 0.025))
    assert found["high_points"] == pytest.approx(np.quantile(values, 0.975))


def test_a_run_against_itself_has_no_difference(small: pd.DataFrame) -> None:
    runs = pair(Records(small, {}), Records(small, {}), names=NAMES)
    assert (differences(*runs)[POINTS] == 0).all(axis=None)
    assert "no 0 for 0 of 28 differences." in report(*runs, differences(*runs)).findings[0]


def test_other_seeds_are_still_paired_and_other_utterances_are_not(small: pd.DataFrame) -> None:
    again = pd.concat([small.assign(seed=1), small.assign(seed=2)])
    runs = pair(Records(small, {}), Records(again, {}), names=NAMES)
    assert (differences(*runs)[POINTS] == 0).all(axis=None)
    fewer = small[small["utterance"] != "u0-000"]
    runs = pair(Records(small, {}), Records(fewer, {}), names=NAMES)
    found = differences(*runs)
    assert found["low_points"].isna().all()
    assert found["difference_points"].notna().all()
    assert "(48 and 47)" in " ".join(report(*runs, differences(*runs)).findings)


def test_only_what_both_hold_is_compared(small: pd.DataFrame) -> None:
    fewer = small[
        (small["defence"] != "quantise-4")
        & ~((small["attack"] == "pgd") & (small["strength"] == 15))
        & (small["attack"] != "fgsm")
    ]
    runs = pair(Records(small, {}), Records(fewer, {}), names=NAMES)
    found = by_measure(*runs)
    assert not any(measure == "FGSM mean" for _, measure in found)
    assert ("quantise-4", "clean") not in found
    assert found["ssad", "PGD mean"]["difference_points"] == 0  # k = 3 … 12 on both sides
    assert "Only in A, not in B: quantise-4." in " ".join(
        report(*runs, differences(*runs)).findings
    )


def test_adaptive_attacks_of_other_lengths_are_shown_and_not_compared(small: pd.DataFrame) -> None:
    shorter = small.assign(strength=small["strength"].mask(small["knowledge"] == "adaptive", 15.0))
    runs = pair(Records(small, {}), Records(shorter, {}), names=NAMES)
    assert adaptive_steps(*runs) == (30, 15)
    found = by_measure(*runs)["ssad", "adaptive PGD"]
    assert found["a_percent"] == found["b_percent"]
    assert np.isnan(found["difference_points"])
    assert "adaptively with PGD-30, B with PGD-15" in " ".join(
        report(*runs, differences(*runs)).findings
    )
    # Where both also hold a shorter one, that is compared.
    both = pd.concat([small, shorter[shorter["knowledge"] == "adaptive"]])
    runs = pair(Records(both, {}), Records(shorter, {}), names=NAMES)
    assert adaptive_steps(*runs) == (15, 15)


def test_settings_that_differ(first: Records, second: Records) -> None:
    runs = pair(first, second, names=NAMES)
    table = settings_table(*runs)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["recipe", "x", "y"],
        ["width", "16", "32"],
        ["purifiers.ssad.epochs", "–", "9"],
    ]
    without = Records(frame(1), {"scheme": "four", "classes": ["b", "a"]})
    told = settings_table(*pair(first, without, names=NAMES))
    assert told.note == "The records of B do not hold the recipe."
    same = settings_table(*pair(first, first, names=NAMES))
    assert (same.rows, same.note) == ((), "None that is recorded.")


def test_another_scale_is_said(first: Records) -> None:
    other = Records(first.frame, {**PROVENANCE, "scale": {"window_db": 60.0}})
    runs = pair(first, other, names=NAMES)
    verdict = " ".join(report(*runs, differences(*runs)).findings)
    assert "They differ in the scale (window_db 80 and window_db 60), so an attack" in verdict


def test_written_files_hold_the_numbers(tmp_path: Path, first: Records, second: Records) -> None:
    table, paths = write_comparison(first, second, tmp_path / "out", names=NAMES)
    text = paths.markdown.read_text()
    assert text.startswith("# servax report: second against first")
    assert re.search(r"\| ssad \| PGD mean \| 50\.0 \| 83\.3 \| (\*\*)?\+33\.3", text)
    assert [path.name for path in (paths.folder / "figures").iterdir()] == ["differences.png"]
    names = sorted(path.name for path in (paths.folder / "tables").iterdir())
    assert names == ["differences.csv", "differences.tex", "settings.csv", "settings.tex"]
    told = pd.read_csv(paths.folder / "tables" / "differences.csv")
    assert table.numbers is not None
    pd.testing.assert_frame_equal(told, table.numbers, check_exact=True)
    assert "first" in paths.html.read_text()


def refused(change: dict[str, Any], provenance: dict[str, Any] | None = None) -> Records:
    return Records(frame(1).assign(**change), {**PROVENANCE, **(provenance or {})})


REFUSALS = [
    ({"corpus": "other"}, {}, "corpus is made-up and other"),
    ({}, {"scheme": "native"}, "label scheme is four and native"),
    ({}, {"classes": ["a", "b", "c"]}, "classes is a, b and a, b, c"),
    (
        {"fold": 1},
        {},
        "they hold folds 1, 2 in first and fold 1 in second (both hold fold 1: give "
        "its Parquet file alone)",
    ),
    ({"speaker": "t"}, {}, "fold 1 holds out the speakers s and t"),
    ({}, {"fold_hash": "9"}, "their folds train on other speakers (fold hash 0123 and 9)"),
    ({"label": "a"}, {}, "utterance u[24] has another label in each"),
]


@pytest.mark.parametrize(("change", "provenance", "sentence"), REFUSALS)
def test_refuses_runs_that_cannot_be_compared(
    first: Records, change: dict[str, Any], provenance: dict[str, Any], sentence: str
) -> None:
    escaped = sentence if "u[24]" in sentence else re.escape(sentence)
    with pytest.raises(
        ServaxError,
        match=f"^first and second cannot be compared: {escaped}; compare runs over the same "
        r"utterances and classes\.$",
    ):
        pair(first, refused(change, provenance), names=NAMES)


def test_refuses_a_run_that_has_no_report_and_says_which(first: Records) -> None:
    lone = first.frame[first.frame["knowledge"] != "adaptive"]
    with pytest.raises(ServaxError, match=r"^second: ssad has oblivious results and no adaptive"):
        pair(first, Records(lone, PROVENANCE), names=NAMES)


def test_one_file_of_a_larger_run_compares(first: Records) -> None:
    several = Records(first.frame, {**PROVENANCE, "fold_hash": "0123, 4567"})
    pair(first, several, names=NAMES)


def test_reads_a_folder_or_a_file(tmp_path: Path, first: Records) -> None:
    home = tmp_path / "run"
    for fold in (1, 2):
        part = first.frame[first.frame["fold"] == fold]
        records.write(part, home / "records" / f"fold-{fold}.parquet", provenance=PROVENANCE)
    assert len(read_run(home).frame) == len(first.frame)
    single = home / "records" / "fold-1.parquet"
    assert set(read_run(single).frame["fold"]) == {1}
    assert home_of(home) == home_of(single) == home
    assert home_of(tmp_path / "alone.parquet") == tmp_path
    sentence = r"nowhere: holds no records/\*\.parquet; expected the folder of a finished run, or "
    with pytest.raises(ServaxError, match=sentence):
        read_run(tmp_path / "nowhere")
    with pytest.raises(ServaxError, match=r"nowhere\.parquet: no such file, expected a records"):
        read_run(tmp_path / "nowhere.parquet")
