from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from servax.benchmark import Adaptive, Figure, Figures, Protocol, Record, read_all
from servax.benchmark.page import BEGIN, END, in_order, rewrite, tables_of, with_tables
from servax.benchmark.record import LEVELS, GroupSet
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
    held_out, tuning, defences = tables_of(ENTRIES)
    for table in (held_out, tuning, defences):
        assert len(table.rows) == len(ENTRIES)
    rows = {row[0].text: row for row in held_out.rows}
    heads = [head.text for head in held_out.head]
    assert heads[1:3] == [
        "adaptive PGD-9, 2 starts, radius .005",
        "adaptive PGD-9, 2 starts, radius .02",
    ]
    assert {cell.text for cell in rows["d"][1:]} == {"not measured"}
    assert rows["b"][heads.index("PGD mean")].text == "30.0"
    assert rows["b"][heads.index("PGD mean")].detail == "[29.0, 31.0]"
    assert rows["b"][heads.index("FGSM mean")].text == "not measured"
    assert rows["b"][0].detail == "groups 4, 5 only"
    assert tuning.rows[0][0].detail == ""


def test_entries_of_two_protocols_are_refused() -> None:
    other = replace(entry("f"), protocol=Protocol(steps=15))
    with pytest.raises(SettingError, match=r"the protocol of f .* measured alike"):
        tables_of([*ENTRIES, other])


def test_only_what_stands_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    assert rewrite(page, ENTRIES)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{BEGIN}\n\n## vgg16, held-out speakers")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old" not in text
    assert not rewrite(page, ENTRIES)


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
