from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_page import BEGIN, END, in_order, tables_of, with_tables
from entries import LEVELS, Adaptive, Figure, Figures, GroupSet, Protocol, Record, read_all

from servax.errors import PathError, SettingError

ROOT = Path(__file__).parents[2]


def figures(groups: GroupSet, pgd: float | None, adaptive: float) -> Figures:
    return Figures(
        target="vgg16",
        groups=groups,
        heard=(1, 2, 3) if groups == "tuning" else (4, 5),
        utterances=300,
        undefended=Figure(value=66.0, low=60.0, high=70.0),
        pgd=None if pgd is None else Figure(value=pgd, low=pgd - 1, high=pgd + 1),
        pe=Figure(value=0.5),
        adaptive=(
            Adaptive(radius=0.02, steps=9, restarts=2, utterances=48, uar=adaptive),
            Adaptive(radius=0.005, steps=9, restarts=2, utterances=48, uar=60.0),
        ),
        command="c",
        commit="0123abc",
        date="2024-01-01",
    )


def entry(name: str, *found: Figures) -> Record:
    return Record(name=name, kind="input transform", source="s", protocol=Protocol(), figures=found)


ENTRIES = [
    entry("a", figures("held-out", 40.0, 5.0)),
    entry("b", figures("held-out", 30.0, 20.0), figures("tuning", None, 1.0)),
    entry("c", figures("held-out", 50.0, 5.0)),
    entry("d"),
    entry("e", figures("tuning", 60.0, 10.0)),
]


def test_entries_are_sorted_by_the_adaptive_then_the_held_out_oblivious_figure() -> None:
    assert [each.name for each in in_order(ENTRIES, "vgg16")] == ["b", "e", "c", "a", "d"]


def test_every_entry_stands_in_every_table_and_gaps_say_so() -> None:
    held_out, tuning, defences = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[4:]]
        for part in re.split(r"\n(?=## )", tables_of(ENTRIES))
    )
    heads, _, *rows = held_out
    assert len(rows) == len(tuning[2:]) == len(defences) == len(ENTRIES)
    assert heads[1:3] == [
        "adaptive PGD-9, 2 starts, radius .005",
        "adaptive PGD-9, 2 starts, radius .02",
    ]
    found = {row[0].partition("<")[0]: dict(zip(heads, row, strict=True)) for row in rows}
    assert set(list(found["d"].values())[1:]) == {"not measured"}
    assert found["b"]["PGD mean"] == "30.0<br><small>[29.0, 31.0]</small>"
    assert found["b"]["FGSM mean"] == "not measured"
    assert found["b"]["defence"] == "b<br><small>groups 4, 5 only</small>"
    assert tuning[2][0] == "b"


def test_entries_of_two_protocols_are_refused() -> None:
    other = replace(entry("f"), protocol=Protocol(steps=15))
    with pytest.raises(SettingError, match=r"the protocol of f .* measured alike"):
        tables_of([*ENTRIES, other])


def test_only_what_stands_between_the_markers_changes() -> None:
    text = with_tables(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", ENTRIES)
    assert text.startswith(f"before\n\n{BEGIN}\n\n## vgg16, held-out speakers")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old" not in text
    assert with_tables(text, ENTRIES) == text


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {END}"])
def test_a_page_without_markers_is_refused(text: str) -> None:
    with pytest.raises(PathError, match="lacks its markers"):
        with_tables(text, ENTRIES)


def test_the_published_page_says_what_the_entries_say() -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    entries = read_all(ROOT / "results" / "benchmark")
    assert entries, "results/benchmark holds no entry"
    assert with_tables(page, entries) == page, "run `python research/benchmark_page.py`"


def test_the_page_explains_every_level() -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (P\d) \|", page, flags=re.MULTILINE) == list(LEVELS)
