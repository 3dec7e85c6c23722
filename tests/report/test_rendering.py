from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from as_grid import as_grid

from servax.errors import SettingError
from servax.evaluation.records import Records
from servax.report import Examples, ReportPaths, write_report


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, records: Records, examples: Examples
) -> ReportPaths:
    folder = tmp_path_factory.mktemp("report")
    log = folder / "log.jsonl"
    log.write_text('{"epoch": 0, "train/loss": 1.0}\n{"epoch": 1, "train/loss": 0.5}\n')
    return write_report(records, folder / "out", examples=examples, logs={"recogniser": log})


def markdown_table(text: str, title: str) -> dict[str, list[str]]:
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in [cells[0], *cells[2:]]}


def test_writes_pages_and_pictures(written: ReportPaths) -> None:
    assert {path.name for path in (written.folder / "figures").iterdir()} == {
        "spectrograms.png",
        "uar.png",
        "protection.png",
        "confusion.png",
        "training-recogniser.png",
    }
    for path in (written.folder / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    folder = written.markdown.parent
    parts = ["figures", "report.html", "report.md", "tables"]
    assert sorted(path.name for path in folder.iterdir()) == parts
    tables_there = {path.name for path in (folder / "tables").iterdir()}
    main = {"table-1", "intervals", "folds", "protection", "figure-2"}
    assert {f"{name}.{kind}" for name in main for kind in ("tex", "csv")} <= tables_there
    assert "conditions.csv" in tables_there


def test_markdown_holds_the_numbers(written: ReportPaths, records: Records) -> None:
    text = written.markdown.read_text()
    table = markdown_table(text, "UAR (%) under attack")
    headings = [heading.split(" (")[0] for heading in table["defence"]]
    assert table["defence"][:2] == ["clean", "FGSM .003 (0.24 dB, z .020)"]
    assert headings[-1] == "adaptive PGD-30"
    expected = as_grid(records.frame)
    for defence in expected.index:
        told = dict(zip(headings, table[defence], strict=True))
        for heading, value in expected.loc[defence].items():
            assert told[heading].split(" ± ")[0].strip("*") == f"{value:.1f}"


def test_markdown_opens_with_the_adaptive_sentence_and_says_where_it_comes_from(
    written: ReportPaths,
) -> None:
    title, verdict, header, *_ = written.markdown.read_text().split("\n\n")
    assert title == "# servax report: vgg16 on made-up"
    assert verdict.startswith("**An attacker who knows the defence and takes gradients through it")
    for line in (
        "- command: servax run recipes/ravdess_quick.yaml",
        "- machine: 2 cores, 8 GiB, Linux x86_64",
        "- commit: 0123abc",
        "- fold hash: 9f86d081",
        "- seeds: 0",
        "- versions: torch 2.13.0, numpy 2.4.6",
        "- scale: window_db 80",
    ):
        assert line in header.splitlines()


def test_every_markdown_link_leads_to_a_file(written: ReportPaths) -> None:
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", written.markdown.read_text())
    assert len(links) == 5
    for link in links:
        assert (written.markdown.parent / link).is_file()


class Page(HTMLParser):
    """Collects what a page asks for and how its tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_needs_nothing_from_outside(written: ReportPaths) -> None:
    text = written.html.read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert len(page.sources) == 5
    shown = [source.split(",", 1) for source in page.sources]
    assert {kind for kind, _ in shown} == {"data:image/png;base64"}
    assert {base64.b64decode(data) for _, data in shown} == {
        p.read_bytes() for p in (written.folder / "figures").iterdir()
    }
    assert "http" not in text
    assert "url(" not in text
    assert 'name="viewport"' in text


def test_html_escapes_all_text(tmp_path: Path, records: Records) -> None:
    evil = '<script>alert("1")</script>|`x`'
    frame = records.frame[records.frame["attack"] == "none"].assign(target=evil)
    paths = write_report(Records(frame, {"command": evil}), tmp_path)
    text = paths.html.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    markdown = paths.markdown.read_text()
    assert "<script" not in markdown
    assert r"- command: &lt;script>alert(" in markdown
    assert r"\|\`x\`" in markdown


def test_nothing_is_written_when_something_is_refused(tmp_path: Path, records: Records) -> None:
    target = tmp_path / "out"
    sentence = r"^the name of a log is '\.\./x', expected letters, digits, '_', '-' and '\.'\.$"
    with pytest.raises(SettingError, match=sentence):
        write_report(records, target, logs={"../x": tmp_path / "log.jsonl"})
    assert not target.exists()


def test_same_records_same_pages(tmp_path: Path, records: Records) -> None:
    frame = records.frame[records.frame["attack"] == "none"]
    first = write_report(Records(frame, {}), tmp_path / "a")
    again = write_report(Records(frame, {}), tmp_path / "b")
    assert first.html.read_bytes() == again.html.read_bytes()


def test_the_page_shows_first_what_a_reader_came_for(
    tmp_path: Path, everyone: pd.DataFrame
) -> None:
    few = everyone[everyone["defence"].isin(["pgd-at", "ssad", "undefended"])]
    text = write_report(Records(few, {}), tmp_path).html.read_text()
    first, rest = text.split('<details class="more">', 1)
    wanted = ("UAR (%) under attack", "Protection efficacy and recovery rate", "(adaptive)")
    assert [title for title in wanted if title not in first] == []
    assert first.count("<h2>") == 3
    assert rest.count("<h2>") == rest.count("<summary><h2>") > 10
