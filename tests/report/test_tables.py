from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from servax.report import protection, tables
from servax.report.outcomes import collect
from servax.report.text_tables import fold_table, grid_table, interval_table, summary_table


def oracle(
    frame: pd.DataFrame, defence: str, attack: str, strength: float, knowledge: str
) -> float:
    part = frame[
        (frame["defence"] == defence)
        & (frame["attack"] == attack)
        & np.isclose(frame["strength"], strength)
        & (frame["knowledge"] == knowledge)
    ]
    return 100 * balanced_accuracy_score(part["label"], part["prediction"])


def test_grid_is_scikit_learn_on_the_rows(small: pd.DataFrame) -> None:
    table = tables.grid(collect(small))
    fgsm, pgd = (0.003, 0.006, 0.009, 0.012, 0.015), (3, 6, 9, 12, 15)
    assert list(table.columns) == [
        "clean",
        *(f"FGSM {e:g}".replace("0.", ".") for e in fgsm),
        "FGSM mean",
        *(f"PGD {k}" for k in pgd),
        "PGD mean",
        "adaptive PGD-30",
    ]
    assert table.index[-1] == "undefended"
    for defence in table.index:
        clean = oracle(small, defence, "none", 0, "none")
        by_epsilon = [oracle(small, defence, "fgsm", e, "oblivious") for e in fgsm]
        by_steps = [oracle(small, defence, "pgd", k, "oblivious") for k in pgd]
        adaptive = oracle(small, defence, "pgd", 30, "adaptive")
        expected = [clean, *by_epsilon, np.mean(by_epsilon), *by_steps, np.mean(by_steps), adaptive]
        np.testing.assert_allclose(table.loc[defence], expected)


def test_folds_are_scored_apart(small: pd.DataFrame) -> None:
    means, spreads = tables.fold_tables(collect(small))
    values = [
        oracle(small[small["fold"] == fold], "ssad", "fgsm", 0.009, "oblivious") for fold in (0, 1)
    ]
    assert means.loc["ssad", "FGSM .009"] == pytest.approx(np.mean(values))
    assert spreads.loc["ssad", "FGSM .009"] == pytest.approx(abs(values[0] - values[1]) / 2)


def test_a_grid_of_its_own_is_shown_and_missing_cells_are_nan(small: pd.DataFrame) -> None:
    off = small[(small["attack"] != "pgd") | small["strength"].isin([1, 2, 30])]
    gap = (off["defence"] == "ssad") & (off["attack"] == "fgsm") & (off["strength"] == 0.003)
    table = tables.grid(collect(off[~gap]))
    assert "PGD 1" in table
    assert "PGD 30" in table
    assert table.loc["ssad", ["FGSM .003", "FGSM mean"]].isna().all()
    assert not table.loc["ssad", "FGSM .006":"FGSM .015"].isna().any()


def test_intervals_hold_the_value_and_need_two_speakers(small: pd.DataFrame) -> None:
    outcomes = collect(small)
    found = tables.intervals(outcomes, resamples=200)
    table = tables.grid(outcomes)
    assert set(found["ssad"]) == {"clean", "FGSM mean", "PGD mean", "adaptive PGD-30"}
    for defence, row in found.items():
        for heading, interval in row.items():
            assert interval.low <= table.loc[defence, heading] <= interval.high
    assert tables.intervals(collect(small.assign(speaker="s0"))) == {}
    assert interval_table(collect(small.assign(speaker="s0"))) is None


def test_interval_statistic_is_the_uar_of_the_drawn_rows(small: pd.DataFrame) -> None:
    # One resample with seed 0, repeated by hand with scikit-learn.
    outcomes = collect(small)
    found = tables.intervals(outcomes, resamples=1, seed=0)["ssad"]["clean"]
    names = np.unique(outcomes.speakers)
    drawn = np.random.default_rng(0).integers(0, names.size, (1, names.size))[0]
    rows = np.concatenate([np.flatnonzero(outcomes.speakers == names[i]) for i in drawn])
    predictions = outcomes.predictions("ssad", tables.CLEAN)
    assert predictions is not None
    expected = 100 * balanced_accuracy_score(outcomes.labels[rows], predictions[rows])
    assert found.low == found.high == pytest.approx(expected)


# Four clean-correct utterances and one clean error; see the comments for each PE and RR.
BY_HAND = {
    # label a a a a b
    ("undefended", "none", 0, "none"): "aaaaa",
    ("undefended", "pgd", 1, "oblivious"): "baaaa",  # R_no = 1/4
    ("undefended", "pgd", 2, "oblivious"): "bbbba",  # R_no = 4/4
    ("undefended", "pgd", 30, "adaptive"): "bbbba",  # R_no = 4/4
    ("ssad", "none", 0, "none"): "abaab",  # harm 1/4
    ("ssad", "pgd", 1, "oblivious"): "bbaab",  # R_prot = 2/4: PE = −1, RR = 1
    ("ssad", "pgd", 2, "oblivious"): "baaaa",  # R_prot = 1/4: PE = .75, RR = 0
    ("ssad", "pgd", 30, "adaptive"): "bbbaa",  # R_prot = 3/4: PE = .25, RR = 0
}


@pytest.fixture
def by_hand(small: pd.DataFrame) -> pd.DataFrame:
    template = small.iloc[:5].drop(columns=["label", "prediction"]).reset_index(drop=True)
    return pd.concat(
        [
            template.assign(
                label=list("aaaab"),
                prediction=list(predictions),
                defence=defence,
                attack=attack,
                strength=float(strength),
                knowledge=knowledge,
            )
            for (defence, attack, strength, knowledge), predictions in BY_HAND.items()
        ]
    )


def test_protection_by_hand(by_hand: pd.DataFrame) -> None:
    outcomes = collect(by_hand)
    curve = protection.curves(outcomes)
    assert curve.index.tolist() == [1, 2]
    assert curve["ssad", "PE"].tolist() == [-1.0, 0.75]
    assert curve["ssad", "RR"].tolist() == [1.0, 0.0]
    told = protection.summary(outcomes).loc["ssad"]
    assert told.to_dict() == {
        "PE mean": -0.125,
        "PE sd": 0.875,  # population: half the distance of two values
        "PE adaptive": 0.25,
        "RR mean": 0.5,
        "RR sd": 0.5,
        "RR adaptive": 0.0,
        "harm": 0.25,
    }


def test_grid_by_hand(by_hand: pd.DataFrame) -> None:
    table = tables.grid(collect(by_hand))
    assert table.loc["undefended"].tolist() == [50.0, 37.5, 0.0, 18.75, 0.0]
    assert table.loc["ssad"].tolist() == [87.5, 75.0, 37.5, 56.25, 12.5]


def test_one_defence_has_no_best(by_hand: pd.DataFrame) -> None:
    outcomes = collect(by_hand)
    table = grid_table(outcomes, {"scale": {"window_db": 80}})
    assert not any(cell.best for row in table.rows for cell in row)  # undefended does not compete
    assert [cell.text for cell in table.rows[0]] == [
        "ssad",
        "87.5",
        "75.0",
        "37.5",
        "56.2 ± 18.8",
        "112.5",  # of the 50 that the undefended target has
        "12.5",
    ]
    alone = summary_table(outcomes)
    assert alone is not None
    assert not any(cell.best for cell in alone.rows[0])


def test_nothing_measured_stays_unsaid(small: pd.DataFrame) -> None:
    exact = small[(small["defence"] == "ssad") & (small["knowledge"] == "adaptive")]
    transfer = exact.assign(knowledge="transfer", strength=10.0)
    table = tables.other_attacks(collect(pd.concat([small, transfer])))
    assert list(table.columns) == ["pgd 10, transfer"]
    assert table["pgd 10, transfer"].notna().tolist() == [name == "ssad" for name in table.index]
    assert tables.other_attacks(collect(small)).columns.empty


def test_one_fold_has_no_fold_table(small: pd.DataFrame) -> None:
    assert fold_table(collect(small[small["fold"] == 0]), {}) is None
    table = fold_table(collect(small), {})
    assert table is not None
    assert re.fullmatch(r"\d+\.\d ± \d+\.\d", table.rows[0][1].text)


def test_bpda_is_marked_and_no_window_gives_no_db(small: pd.DataFrame) -> None:
    exact = (small["defence"] == "quantise-4") & (small["knowledge"] == "adaptive")
    frame = small.assign(knowledge=small["knowledge"].mask(exact, "bpda"))
    table = grid_table(collect(frame), {})
    last = {row[0].text: row[-1].text for row in table.rows}
    assert last["quantise-4"].endswith(" †")
    assert not last["quantise-8"].endswith("†")
    assert all(head.detail == "" for head in table.head if not head.text.endswith("kept"))
