from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from servax.report import Measures, Table, collect
from servax.report.run_tables import appendix_tables, flow_tables, group_tables

CLASSES = ["angry", "happy", "neutral", "sad"]


@pytest.fixture
def frame(small: pd.DataFrame) -> pd.DataFrame:
    """Return `small` with a man among the speakers, and one more seed."""
    known = small.assign(gender=small["speaker"].map(lambda s: "male" if s == "s11" else "female"))
    return pd.concat([known, known.assign(seed=1)])


def rows_of(frame: pd.DataFrame, defence: str, column: str) -> list[pd.DataFrame]:
    """Return the rows behind one entry, a frame for each condition of a mean."""
    mine = frame[frame["defence"] == defence]
    if column == "clean":
        return [mine[mine["attack"] == "none"]]
    if column.startswith("adaptive"):
        return [mine[mine["knowledge"] == "adaptive"]]
    attack, wanted = {
        "FGSM mean": ("fgsm", (0.003, 0.006, 0.009, 0.012, 0.015)),
        "PGD mean": ("pgd", (3, 6, 9, 12, 15)),
    }[column]
    part = mine[(mine["attack"] == attack) & (mine["knowledge"] == "oblivious")]
    return [part[np.isclose(part["strength"], strength)] for strength in wanted]


def recalls(part: pd.DataFrame, classes: list[str]) -> np.ndarray:
    return recall_score(part["label"], part["prediction"], labels=classes, average=None)


def numbers_of(tables: tuple[Table, ...]) -> pd.DataFrame:
    assert all(table.numbers is not None for table in tables)
    return pd.concat([table.numbers for table in tables])


@pytest.mark.parametrize("column", ["speaker", "gender"])
def test_uar_by_group_is_scikit_learn_on_the_rows(frame: pd.DataFrame, column: str) -> None:
    found = numbers_of(group_tables(Measures(collect(frame)), column))
    assert set(found["group"]) == set(frame[column])
    assert set(found["column"]) == {"clean", "FGSM mean", "PGD mean", "adaptive PGD-30"}
    for row in found[found["defence"].isin(["ssad", "undefended"])].to_dict("records"):
        values = []
        for part in rows_of(frame, row["defence"], row["column"]):
            mine = part[part[column] == row["group"]]
            values.append(recalls(mine, sorted(set(mine["label"]))).mean())
        assert row["percent"] == pytest.approx(100 * np.mean(values))


def test_recall_by_emotion_is_scikit_learn_on_the_rows(frame: pd.DataFrame) -> None:
    tables = group_tables(Measures(collect(frame)), "emotion")
    assert [head.text for head in tables[0].head] == ["defence", *CLASSES]
    found = numbers_of(tables)
    for row in found[found["defence"] == "ssad"].to_dict("records"):
        parts = rows_of(frame, "ssad", row["column"])
        expected = np.mean([recalls(part, CLASSES) for part in parts], axis=0)
        assert row["percent"] == pytest.approx(100 * expected[CLASSES.index(row["group"])])
    assert tables[0].note.startswith("Utterances × seeds: ")


def test_text_has_the_spread_and_matches_the_numbers(frame: pd.DataFrame) -> None:
    found = group_tables(Measures(collect(frame)), "speaker")
    assert [table.title for table in found] == [
        f"UAR (%) by speaker: {name}"
        for name in ("clean", "FGSM mean", "PGD mean", "adaptive PGD-30")
    ]
    assert len({table.place for table in found}) == 4
    names = [head.text for head in found[2].head]
    assert names == ["defence", *sorted(set(frame["speaker"])), "sd"]
    numbers = numbers_of((found[2],))
    assert set(numbers["column"]) == {"PGD mean"}
    values = numbers[numbers["defence"] == "ssad"]["percent"]
    line = {row[0].text: row for row in found[2].rows}["ssad"]
    assert [cell.text for cell in line[1:]] == [
        *(f"{value:.1f}" for value in values),
        f"{np.std(values):.1f}",
    ]


def test_few_groups_stand_side_by_side(frame: pd.DataFrame) -> None:
    (table,) = group_tables(Measures(collect(frame)), "gender")
    assert [(head.text, head.detail) for head in table.head[1:]] == [
        (condition, gender)
        for condition in ("clean", "FGSM mean", "PGD mean", "adaptive PGD-30")
        for gender in ("female", "male")
    ]
    numbers = numbers_of((table,))
    line = {row[0].text: row for row in table.rows}["ssad"]
    mine = numbers[numbers["defence"] == "ssad"]["percent"]
    assert [cell.text for cell in line[1:]] == [f"{value:.1f}" for value in mine]


def test_gender_counts_speakers_and_needs_two(frame: pd.DataFrame, small: pd.DataFrame) -> None:
    (table,) = group_tables(Measures(collect(frame)), "gender")
    assert table.note == "Speakers: 5 female, 1 male."
    assert group_tables(Measures(collect(small)), "gender") == ()
    assert group_tables(Measures(collect(small.assign(speaker="s0"))), "speaker") == ()


def test_flows_are_scikit_learns_confusions(frame: pd.DataFrame) -> None:
    outcomes = Measures(collect(frame))
    tables = flow_tables(outcomes)
    assert [table.title for table in tables] == [
        "Where answers go: PGD 15, oblivious",
        "Where answers go: adaptive PGD-30",
    ]
    columns = ("PGD mean", "adaptive PGD-30")
    for table, column in zip(tables, columns, strict=True):
        found = numbers_of((table,))
        assert len(found) == 16 * len(outcomes.defences)
        for defence in ("ssad", "undefended"):
            part = rows_of(frame, defence, column)[-1]
            matrix = confusion_matrix(part["label"], part["prediction"], labels=CLASSES)
            for row in found[found["defence"] == defence].to_dict("records"):
                i, j = CLASSES.index(row["true"]), CLASSES.index(row["predicted"])
                assert row["count"] == matrix[i, j]
                assert row["share"] == pytest.approx(matrix[i, j] / matrix[i].sum())


def test_flows_are_sorted_and_the_largest_is_named(frame: pd.DataFrame) -> None:
    table = flow_tables(Measures(collect(frame)))[0]
    part = rows_of(frame, "ssad", "PGD mean")[-1]
    matrix = confusion_matrix(part["label"], part["prediction"], labels=CLASSES).astype(float)
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    np.fill_diagonal(shares, -1)
    i, j = np.unravel_index(shares.argmax(), shares.shape)
    name = f"{CLASSES[i]} → {CLASSES[j]}"
    place = [head.text for head in table.head].index("ssad")
    assert table.rows[0][0].text == "largest flow"
    assert table.rows[0][place].text == name
    told = f"ssad {name} ({matrix[i, j]:.0f}, {100 * shares[i, j]:.0f}\N{NO-BREAK SPACE}%)"
    assert told in table.note
    numbers = numbers_of((table,))
    means = (
        numbers[numbers["true"] != numbers["predicted"]]
        .groupby(["true", "predicted"], sort=False)["share"]
        .mean()
    )
    assert means.tolist() == sorted(means, reverse=True)
    assert [row[0].text for row in table.rows[1:13]] == [f"{a} → {b}" for a, b in means.index]
    assert {row[0].text for row in table.rows[13:]} == {f"{name}, right" for name in CLASSES}


def test_no_wrong_answer_has_no_flow(small: pd.DataFrame) -> None:
    right = small.assign(prediction=small["label"])
    table = flow_tables(Measures(collect(right)))[0]
    assert {cell.text for cell in table.rows[0][1:]} == {"none"}
    assert "undefended none;" in table.note


def test_clean_records_alone_are_enough(small: pd.DataFrame) -> None:
    clean = Measures(collect(small[small["attack"] == "none"]))
    assert [table.title for table in appendix_tables(clean)] == [
        "Recall (%) by emotion",
        "UAR (%) by speaker",
    ]
