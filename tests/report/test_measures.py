from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from as_grid import as_grid
from sklearn.metrics import balanced_accuracy_score

from servax.report import Measures, collect, table_1
from servax.report.run_tables import interval_table, other_table, spread_table, worth_table


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
    table = as_grid(small)
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
    means = as_grid(small, "mean_over_folds_percent")
    spreads = as_grid(small, "sd_over_folds_percent")
    values = [
        oracle(small[small["fold"] == fold], "ssad", "fgsm", 0.009, "oblivious") for fold in (0, 1)
    ]
    assert means.loc["ssad", "FGSM .009"] == pytest.approx(np.mean(values))
    assert spreads.loc["ssad", "FGSM .009"] == pytest.approx(abs(values[0] - values[1]) / 2)


def test_a_grid_of_its_own_is_shown_and_missing_cells_are_nan(small: pd.DataFrame) -> None:
    off = small[(small["attack"] != "pgd") | small["strength"].isin([1, 2, 30])]
    gap = (off["defence"] == "ssad") & (off["attack"] == "fgsm") & (off["strength"] == 0.003)
    table = as_grid(off[~gap])
    assert "PGD 1" in table
    assert "PGD 30" in table
    assert table.loc["ssad", ["FGSM .003", "FGSM mean"]].isna().all()
    assert not table.loc["ssad", "FGSM .006":"FGSM .015"].isna().any()


def test_intervals_hold_the_value_and_need_two_speakers(small: pd.DataFrame) -> None:
    table = interval_table(Measures(collect(small)))
    assert table is not None
    assert table.numbers is not None
    headings = ["clean", "FGSM mean", "PGD mean", "adaptive PGD-30"]
    assert [head.text for head in table.head] == ["defence", *headings]
    assert list(dict.fromkeys(table.numbers["column"])) == headings
    for row in table.numbers.to_dict("records"):
        assert row["low_percent"] <= row["uar_percent"] <= row["high_percent"]
    assert interval_table(Measures(collect(small.assign(speaker="s0")))) is None


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
    run = Measures(collect(by_hand))
    curve = run.protection.pivot_table(index="k", columns="measure", values="value")
    assert curve.index.tolist() == [1, 2]
    assert curve["PE"].tolist() == [-1.0, 0.75]
    assert curve["RR"].tolist() == [1.0, 0.0]
    assert run.worth.to_dict("records")[0] == {
        "defence": "ssad",
        "PE mean": -0.125,
        "PE sd": 0.875,  # population: half the distance of two values
        "PE adaptive": 0.25,
        "RR mean": 0.5,
        "RR sd": 0.5,
        "RR adaptive": 0.0,
        "harm": 0.25,
    }


def test_grid_by_hand(by_hand: pd.DataFrame) -> None:
    table = as_grid(by_hand)
    assert table.loc["undefended"].tolist() == [50.0, 37.5, 0.0, 18.75, 0.0]
    assert table.loc["ssad"].tolist() == [87.5, 75.0, 37.5, 56.25, 12.5]


def test_one_defence_has_no_best(by_hand: pd.DataFrame) -> None:
    outcomes = Measures(collect(by_hand, {"scale": {"window_db": 80}}))
    table = table_1(outcomes)
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
    alone = worth_table(outcomes)
    assert alone is not None
    assert not any(cell.best for cell in alone.rows[0])


def test_nothing_measured_stays_unsaid(small: pd.DataFrame) -> None:
    exact = small[(small["defence"] == "ssad") & (small["knowledge"] == "adaptive")]
    transfer = exact.assign(knowledge="transfer", strength=10.0)
    table = other_table(Measures(collect(pd.concat([small, transfer]))))
    assert table is not None
    assert [head.text for head in table.head] == ["defence", "pgd 10, transfer"]
    told = {row[0].text for row in table.rows if row[1].text != "–"}
    assert told == {"ssad"}
    assert other_table(Measures(collect(small))) is None


def test_one_fold_has_no_fold_table(small: pd.DataFrame) -> None:
    assert spread_table(Measures(collect(small[small["fold"] == 0])), "run") is None
    table = spread_table(Measures(collect(small)), "run")
    assert table is not None
    assert re.fullmatch(r"\d+\.\d ± \d+\.\d", table.rows[0][1].text)


def test_bpda_is_marked_and_no_window_gives_no_db(small: pd.DataFrame) -> None:
    exact = (small["defence"] == "quantise-4") & (small["knowledge"] == "adaptive")
    frame = small.assign(knowledge=small["knowledge"].mask(exact, "bpda"))
    table = table_1(Measures(collect(frame)))
    last = {row[0].text: row[-1].text for row in table.rows}
    assert last["quantise-4"].endswith(" †")
    assert not last["quantise-8"].endswith("†")
    assert all(head.detail == "" for head in table.head if not head.text.endswith("kept"))
