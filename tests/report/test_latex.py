r"""LaTeX by its structure: balanced, as many ``&`` in each line, everything escaped."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from servax.report import Cell, Head, Measures, Table, collect, table_1
from servax.report.rendering import escaped, latex
from servax.report.run_tables import (
    adaptive_table,
    interval_table,
    protection_table,
    spread_table,
    worth_table,
)

WINDOW = {"scale": {"window_db": 80.0}}
SPECIAL = {
    "50 % & more": r"50 \% \& more",
    "a_b^c": r"a\_b\textasciicircum{}c",
    r"\input{x}": r"\textbackslash{}input\{x\}",
    "#1 $2 ~3": r"\#1 \$2 \textasciitilde{}3",
    "−0.5 ± 0.1 †": r"$-$0.5 $\pm$ 0.1 $\dagger$",
    "[1, 2]": "{[}1, 2{]}",
    "* p < .05": r"{*} p \textless{} .05",
    "ε … σ – n": r"$\varepsilon$ \ldots{} $\sigma$ -- n",
    "angry → sad": r"angry $\to$ sad",
    "0.24\N{NO-BREAK SPACE}dB": "0.24~dB",
    "two\nlines": "two lines",
    "Gänsefüße": "Gänsefüße",
}


@pytest.mark.parametrize(("text", "expected"), SPECIAL.items())
def test_special_signs(text: str, expected: str) -> None:
    assert escaped(text) == expected


def check_structure(source: str, columns: int) -> list[str]:
    """Return the lines of the body of a well-formed tabular."""
    code = [line for line in source.splitlines() if not line.startswith("%")]
    assert code[0] == rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}"
    assert code[-1] == r"\end{tabular}"
    rules = [line for line in code if re.fullmatch(r"\\(top|mid|bottom)rule", line)]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    lines = [line for line in code[1:-1] if line not in rules]
    for line in lines:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
        assert not line.lstrip().startswith(("[", "*"))
        depth = 0
        for sign in re.findall(r"(?<!\\)[{}]", line):
            depth += 1 if sign == "{" else -1
            assert depth >= 0
        assert depth == 0
        assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0
        assert not re.search(r"(?<!\\)[%#_^]", line)
        assert line.isascii()
    return lines


def test_main_tables_are_well_formed(everyone: pd.DataFrame) -> None:
    outcomes = Measures(collect(everyone, WINDOW))
    made = (
        table_1(outcomes, beside_paper=True),
        adaptive_table(outcomes),
        interval_table(outcomes),
        spread_table(outcomes, "run"),
        worth_table(outcomes),
        protection_table(outcomes),
    )
    for table in made:
        assert table is not None
        source = latex(table)
        lines = check_structure(source, len(table.head))
        heading = 2 if any(head.detail for head in table.head) else 1
        assert len(lines) == heading + len(table.rows)


def test_values_are_those_of_the_csv(everyone: pd.DataFrame) -> None:
    table = table_1(Measures(collect(everyone, WINDOW)), beside_paper=True)
    numbers = table.numbers
    assert numbers is not None
    told = numbers.set_index(["defence", "column"])
    lines = check_structure(latex(table), len(table.head))
    headings = [part.strip() for part in lines[0].removesuffix(r"\\").split("&")]
    seen = 0
    for line in lines[2:]:
        name, *values = (part.strip() for part in line.removesuffix(r"\\").split("&"))
        if name.startswith(r"\textit"):
            continue
        for heading, text in zip(headings[1:], values, strict=True):
            value = re.sub(r"\\textbf\{(.*)\}", r"\1", text).split(" ")[0]
            if not heading.endswith("kept"):
                assert value == f"{told.loc[(name, heading), 'uar_percent']:.1f}"
                seen += 1
    assert seen == 19 * 14


def test_bold_and_italic() -> None:
    table = Table(
        title="A title\nof two lines",
        note="",
        head=(Head("name"), Head("value", "in %")),
        rows=((Cell("[a]"), Cell("1", best=True)), (Cell("b"), Cell("2_", published=True))),
    )
    source = latex(table)
    assert source.startswith("% A title of two lines\n")
    assert check_structure(source, 2) == [
        r"name & value \\",
        r" & {\scriptsize in \%} \\",
        r"{[}a{]} & \textbf{1} \\",
        r"b & \textit{2\_} \\",
    ]


def test_file_names() -> None:
    title = "UAR (%), mean ± standard deviation over folds"
    assert Table(title, "", (), ()).place == "tables/uar-mean-standard-deviation-over-folds"
    assert Table(title, "", (), (), name="folds").place == "tables/folds"
    assert Table("–", "", (), ()).place == "tables/table"
