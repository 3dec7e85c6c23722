"""Table 1 and its CSV against scikit-learn on the rows, and the paper's rows beside ours."""

from __future__ import annotations

import statistics

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from servax.report import Cell, Head, Measures, Table, collect, table_1
from servax.report.run_tables import adaptive_table, other_table
from servax.report.tables import Field, pivot

EPSILONS, STEPS = (0.003, 0.006, 0.009, 0.012, 0.015), (3, 6, 9, 12, 15)


def uar(frame: pd.DataFrame, defence: str, attack: str, strength: float, knowledge: str) -> float:
    part = frame[
        (frame["defence"] == defence)
        & (frame["attack"] == attack)
        & np.isclose(frame["strength"], strength)
        & (frame["knowledge"] == knowledge)
    ]
    labels = sorted(set(part["label"]))
    return 100 * recall_score(part["label"], part["prediction"], labels=labels, average="macro")


def row(table: Table, name: str) -> dict[str, Cell]:
    found = next(line for line in table.rows if line[0].text == name)
    return dict(zip([head.text for head in table.head], found, strict=True))


def test_numbers_are_scikit_learn_on_the_rows(everyone: pd.DataFrame) -> None:
    outcomes = Measures(collect(everyone))
    oblivious, adaptive = table_1(outcomes), adaptive_table(outcomes)
    assert adaptive is not None
    clean = uar(everyone, "undefended", "none", 0, "none")
    for table, knowledge in ((oblivious, "oblivious"), (adaptive, None)):
        numbers = table.numbers
        assert numbers is not None
        assert len(numbers) == 19 * 14  # clean, 5 + mean, 5 + mean, last
        told = numbers.set_index(["defence", "column"])
        for defence in ("pgd-at", "quantise-4", "undefended"):
            known = "bpda" if defence.startswith("quantise") else "adaptive"
            for attack, grid in (("fgsm", EPSILONS), ("pgd", STEPS)):
                values = [uar(everyone, defence, attack, s, knowledge or known) for s in grid]
                names = [f"{attack.upper()} {s:g}".replace("0.", ".") for s in grid]
                found = [told.loc[(defence, name), "uar_percent"] for name in names]
                np.testing.assert_allclose(found, values)
                mean = told.loc[(defence, f"{attack.upper()} mean")]
                assert mean["uar_percent"] == pytest.approx(statistics.fmean(values))
                assert mean["sd_over_intensities_percent"] == pytest.approx(
                    statistics.pstdev(values)
                )
                assert mean["over_clean"] == pytest.approx(statistics.fmean(values) / clean)
                assert mean["knowledge"] == (knowledge or known)


def test_spread_over_folds_is_the_population_sd(everyone: pd.DataFrame) -> None:
    table = table_1(Measures(collect(everyone)))
    assert table.numbers is not None
    told = table.numbers.set_index(["defence", "column"]).loc[("trades", "PGD 9")]
    values = [
        uar(everyone[everyone["fold"] == fold], "trades", "pgd", 9, "oblivious") for fold in (0, 1)
    ]
    assert told["mean_over_folds_percent"] == pytest.approx(statistics.fmean(values))
    assert told["sd_over_folds_percent"] == pytest.approx(statistics.pstdev(values))
    assert told["low_percent"] <= told["uar_percent"] <= told["high_percent"]


def test_the_papers_row_stands_below_ours(everyone: pd.DataFrame) -> None:
    outcomes = Measures(collect(everyone))
    table = table_1(outcomes, beside_paper=True)
    names = [line[0].text for line in table.rows]
    below = [names[i] for i, line in enumerate(table.rows[1:]) if line[0].published]
    assert below == [
        *(f"adversarial-similarity-{e:g}" for e in EPSILONS),
        "ssad",
        "undefended",
    ]
    place = names.index("ssad") + 1
    theirs = dict(zip([head.text for head in table.head], table.rows[place], strict=True))
    assert theirs["FGSM .009"] == Cell("43.54", published=True)
    assert theirs["FGSM mean"] == Cell("43.53 ± 1.86", published=True)
    assert theirs["FGSM kept"].text == "85.2"  # 43.528 / 51.06
    assert theirs["PGD mean"].text == "34.99 ± 2.14"
    assert theirs["PGD kept"].text == "68.5"  # 34.99 / 51.06
    assert theirs["clean"] == theirs["adaptive PGD-30"] == Cell("–")
    last = dict(zip([head.text for head in table.head], table.rows[-1], strict=True))
    assert last["clean"].text == "51.06"
    assert len(table_1(outcomes).rows) == 19


def test_no_paper_row_off_its_grid_or_without_its_defences(small: pd.DataFrame) -> None:
    off = small[(small["attack"] != "pgd") | small["strength"].isin([3, 6, 30])]
    table = table_1(Measures(collect(off)), beside_paper=True)
    theirs = dict(zip([head.text for head in table.head], table.rows[1], strict=True))
    assert theirs["PGD 6"].text == "34.91"
    assert theirs["PGD mean"] == theirs["PGD kept"] == Cell("–")
    bare = small[~small["defence"].str.startswith("ssad")]
    table = table_1(Measures(collect(bare)), beside_paper=True)
    assert not any(line[0].published for line in table.rows)


def test_only_defences_compete_for_bold(everyone: pd.DataFrame) -> None:
    clean = (everyone["attack"] == "none") & (everyone["defence"] == "undefended")
    frame = everyone.assign(prediction=everyone["prediction"].mask(clean, everyone["label"]))
    table = table_1(Measures(collect(frame)))
    ours = [line for line in table.rows if line[0].text != "undefended"]
    assert not any(cell.best for cell in row(table, "undefended").values())
    for i, head in enumerate(table.head[1:], start=1):
        printed = [float(line[i].text.split(" ")[0]) for line in ours]
        expected = [value == max(printed) for value in printed]
        found = [line[i].best for line in ours]
        assert found == ([False] * len(ours) if head.text.endswith("kept") else expected)


def marked(values: list[float], *, lowest: bool = False) -> list[bool]:
    """Return which values a table marks as best; the last one is of the bare model."""
    names = [*(f"defence-{i}" for i in range(len(values) - 1)), "undefended"]
    frame = pd.DataFrame({"defence": names, "uar": values})
    field = Field(Head("UAR"), lambda row: str(row["uar"]), best="uar", lowest=lowest)
    table = pivot(frame, [field], key="", title="One column", note="")
    return [cells[1].best for cells in table.rows]


def test_best_of_a_column() -> None:
    nan = float("nan")
    assert marked([1.0, 3.0, 3.0, 9.0]) == [False, True, True, False]
    assert marked([1.0, 3.0, nan, 0.5], lowest=True) == [True, False, False, False]
    assert marked([2.0, 2.0, 1.0]) == [False, False, False]
    assert marked([2.04, 2.0, 1.0]) == [False, False, False]  # both read 2.0
    assert marked([nan, 2.0, 1.0]) == [False, False, False]


def test_records_with_the_last_adaptive_attack_alone_have_no_second_block(
    small: pd.DataFrame, everyone: pd.DataFrame
) -> None:
    assert adaptive_table(Measures(collect(small))) is None
    assert Measures(collect(small)).known_columns == ()
    outcomes = Measures(collect(everyone))
    block = adaptive_table(outcomes)
    assert block is not None
    cells = row(block, "quantise-4")
    assert cells["FGSM .003"].text.endswith(" †")
    assert not row(block, "ssad")["FGSM .003"].text.endswith("†")
    # What the block shows is not told again as "other".
    assert other_table(outcomes) is None


def test_the_undefended_target_needs_no_adaptive_rows_of_its_own(everyone: pd.DataFrame) -> None:
    bare = (everyone["defence"] == "undefended") & (everyone["knowledge"] == "adaptive")
    table = adaptive_table(Measures(collect(everyone[~bare])))
    assert table is not None
    expected = uar(everyone, "undefended", "pgd", 6, "oblivious")
    assert row(table, "undefended")["PGD 6"].text.split(" ")[0] == f"{expected:.1f}"


def test_every_condition_has_its_line(everyone: pd.DataFrame) -> None:
    told = Measures(collect(everyone)).conditions
    keys = ["defence", "attack", "strength", "knowledge"]
    assert len(told) == len(everyone.drop_duplicates(keys))
    line = told.set_index(keys).loc[("trades", "pgd", 15.0, "adaptive")]
    assert line["uar_percent"] == pytest.approx(uar(everyone, "trades", "pgd", 15, "adaptive"))
