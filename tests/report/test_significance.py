from __future__ import annotations

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from servax.report import Measures, Table, collect
from servax.report.significance import mcnemar_table, opponents, pairs, significance_table

EPSILONS = (0.003, 0.006, 0.009, 0.012, 0.015)


def rows_of(
    frame: pd.DataFrame, defence: str, attack: str, strength: float, knowledge: str
) -> pd.DataFrame:
    part = frame[
        (frame["defence"] == defence)
        & (frame["attack"] == attack)
        & np.isclose(frame["strength"], strength)
        & (frame["knowledge"] == knowledge)
    ]
    return part.sort_values(["fold", "seed", "utterance"]).reset_index(drop=True)


def numbers_of(table: Table | None) -> pd.DataFrame:
    assert table is not None
    assert table.numbers is not None
    return table.numbers


def test_every_other_defence_is_met_once(small: pd.DataFrame) -> None:
    found = pairs(Measures(collect(small)))
    others = {"undefended", "gaussian-noise", "mean-filter", "quantise-8", "quantise-4"}
    assert set(found) == {
        *(("ssad", name) for name in [*others, "ssad-residual"]),
        *(("ssad-residual", name) for name in others),
    }
    assert len(found) == 11


@pytest.mark.parametrize(
    ("column", "conditions"),
    [
        ("clean", [("none", 0.0, "none")]),
        ("FGSM mean", [("fgsm", epsilon, "oblivious") for epsilon in EPSILONS]),
        ("adaptive PGD-30", [("pgd", 30.0, "adaptive")]),
    ],
)
def test_difference_and_p_by_swapping_rows(small: pd.DataFrame, column, conditions) -> None:
    # All 2^6 swaps of six speakers, made on the rows themselves and scored by scikit-learn.
    small = small[small["defence"].isin(["undefended", "mean-filter", "ssad"])]
    ours = [rows_of(small, "ssad", *condition) for condition in conditions]
    theirs = [rows_of(small, "mean-filter", *condition) for condition in conditions]
    speakers = sorted(set(small["speaker"]))

    def difference(swapped: set[str]) -> float:
        values = []
        for a, b in zip(ours, theirs, strict=True):
            swap = a["speaker"].isin(swapped)
            first = a["prediction"].where(~swap, b["prediction"])
            second = b["prediction"].where(~swap, a["prediction"])
            label = a["label"]
            values.append(
                balanced_accuracy_score(label, first) - balanced_accuracy_score(label, second)
            )
        return 100 * float(np.mean(values))

    observed = difference(set())
    patterns = product([False, True], repeat=len(speakers))
    sums = [
        difference({s for s, flag in zip(speakers, pattern, strict=True) if flag})
        for pattern in patterns
    ]
    expected = np.mean(np.abs(sums) >= abs(observed) - 1e-9)
    table = numbers_of(significance_table(Measures(collect(small))))
    row = table[
        (table["first"] == "ssad")
        & (table["second"] == "mean-filter")
        & (table["column"] == column)
    ].iloc[0]
    assert row["difference_points"] == pytest.approx(observed)
    assert row["p"] == pytest.approx(expected)
    assert (row["speakers"], row["exact"]) == (6, True)


def test_cells_hold_the_difference_and_the_adjusted_p(small: pd.DataFrame) -> None:
    table = significance_table(Measures(collect(small)))
    assert table is not None
    numbers = numbers_of(table)
    assert len(numbers) == 44
    assert [head.text for head in table.head] == [
        "defences",
        "clean",
        "FGSM mean",
        "PGD mean",
        "adaptive PGD-30",
    ]
    # Holm, as a transcription: the largest of what the smaller p-values have been raised to.
    in_order = numbers.sort_values("p", kind="stable").reset_index(drop=True)
    raised = [min(1.0, (44 - i) * p) for i, p in enumerate(in_order["p"])]
    assert in_order["p_holm"].tolist() == pytest.approx(np.maximum.accumulate(raised).tolist())
    first = {row[0].text: row for row in table.rows}["ssad vs mean-filter"]
    wanted = numbers[(numbers["first"] == "ssad") & (numbers["second"] == "mean-filter")].iloc[0]
    assert first[1].text == (
        f"{wanted['difference_points']:+.1f}, p {wanted['p_holm']:.3f}".replace("-", "−")
    )
    assert "6 speakers, all 2^6 swaps counted (exact)" in table.note
    assert "Holm over all 44 tests of this table" in table.note
    assert "2 / 2^6 = 0.0312, and 1 once adjusted" in table.note
    assert table.note.startswith("With 6 speakers and 44 tests no difference, however large")


def test_a_star_where_speakers_are_many_enough(small: pd.DataFrame) -> None:
    kept = small[(small["attack"] == "none") & small["defence"].isin(["ssad", "undefended"])]
    many = pd.concat(
        [kept.assign(fold=kept["fold"] + 2 * i, speaker=kept["speaker"] + f"-{i}") for i in (0, 1)]
    )
    ssad = many["defence"] == "ssad"
    right = many.assign(prediction=many["label"].where(ssad, "nobody"))
    table = significance_table(Measures(collect(right)))
    assert table is not None
    assert table.rows[0][1].text == "+100.0, p < 0.001 *"
    assert numbers_of(table)["p_holm"].tolist() == [2 / 2**12]
    assert table.note.startswith("Pooled UAR of the first minus")


def test_many_speakers_are_drawn(small: pd.DataFrame) -> None:
    few = small[(small["attack"] == "none") & small["defence"].isin(["ssad", "undefended"])]
    alone = few.assign(speaker=few["utterance"])  # 48 speakers
    table = significance_table(Measures(collect(alone)))
    assert table is not None
    assert "48 speakers, 9999 swaps drawn (Monte Carlo, seed 0)" in table.note
    assert "1 / 10000 = 0.0001" in table.note


def test_left_out_without_speakers_or_ssad(small: pd.DataFrame) -> None:
    assert significance_table(Measures(collect(small.assign(speaker="s0")))) is None
    bare = Measures(collect(small[~small["defence"].str.startswith("ssad")]))
    assert significance_table(bare) is None
    assert mcnemar_table(bare) is None
    alone = Measures(collect(small[small["defence"].isin(["undefended"])]))
    assert significance_table(alone) is None
    assert mcnemar_table(Measures(collect(small[small["attack"] == "none"]))) is None


def test_a_gap_is_a_dash_and_no_test(small: pd.DataFrame) -> None:
    gap = (small["defence"] == "ssad") & (small["attack"] == "fgsm") & (small["strength"] == 0.003)
    table = significance_table(Measures(collect(small[~gap])))
    assert table is not None
    texts = {row[0].text: row for row in table.rows}
    assert texts["ssad vs mean-filter"][2].text == "–"
    assert texts["ssad-residual vs mean-filter"][2].text != "–"
    assert "Holm over all 38 tests" in table.note  # 44 less the six of ssad


def trained(small: pd.DataFrame) -> pd.DataFrame:
    """Return `small` with two adversarially trained models, the weaker one first by name."""
    good, bad = (small[small["defence"] == name] for name in ("mean-filter", "quantise-8"))
    return pd.concat(
        [
            small,
            good.assign(defence="adversarial-vanilla-0.015"),
            bad.assign(defence="adversarial-vanilla-0.003"),
        ]
    )


def test_opponents_are_the_best_trained_and_the_best_other(small: pd.DataFrame) -> None:
    assert opponents(Measures(collect(small))) == ("mean-filter",)
    assert opponents(Measures(collect(trained(small)))) == (
        "adversarial-vanilla-0.015",
        "mean-filter",
    )


def test_mcnemar_counts_each_fold_and_seed(small: pd.DataFrame) -> None:
    frame = trained(small)
    frame = pd.concat([frame, frame[frame["fold"] == 1].assign(seed=4)])
    table = mcnemar_table(Measures(collect(frame)))
    assert table is not None
    assert [row[0].text for row in table.rows] == [
        "fold 0, seed 0",
        "fold 1, seed 0",
        "fold 1, seed 4",
    ]
    numbers = numbers_of(table)
    assert len(numbers) == 3 * 2 * 2 * 2  # runs, forms of SSAD, opponents, attackers
    conditions = {"PGD 15": (15.0, "oblivious"), "adaptive PGD-30": (30.0, "adaptive")}
    for row in numbers.to_dict("records"):
        strength, knowledge = conditions[row["column"]]
        ours, theirs = (
            rows_of(frame, row[name], "pgd", strength, knowledge) for name in ("first", "second")
        )
        run = (ours["fold"] == row["fold"]) & (ours["seed"] == row["seed"])
        a, b = ((part["prediction"] == part["label"])[run] for part in (ours, theirs))
        counts = int((a & ~b).sum()), int((~a & b).sum())
        assert (row["first_only"], row["second_only"]) == counts
        if sum(counts):
            assert row["p"] == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
        else:
            assert row["p"] == 1.0
    pattern = r"\d+ : \d+, p (< 0\.001|\d\.\d{3})( \*)?"
    assert all(re.fullmatch(pattern, cell.text) for row in table.rows for cell in row[1:])
