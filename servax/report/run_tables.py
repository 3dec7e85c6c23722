"""The tables of a run, each declared as what stands in its rows and columns, and what is best."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import pandas as pd

from servax.evaluation import metrics
from servax.evaluation.metrics import flows
from servax.evaluation.statistics import over_folds
from servax.report import paper
from servax.report.measures import PROTECTION, Column, Measures, measures
from servax.report.predictions import UNDEFENDED
from servax.report.significance import mcnemar_table, significance_table
from servax.report.tables import (
    Field,
    Head,
    Row,
    Table,
    lay_out,
    number,
    percent_sign,
    percentage,
    with_interval,
    with_spread,
)
from servax.report.units import units_of

__all__ = ["appendix_tables", "main_tables", "table_1"]

_WIDEST = 12  # so many columns of numbers fit on the page
_FIRST = Head("defence")


def main_tables(run: Measures) -> tuple[Table, ...]:
    """Return the tables of a run that it can fill, Table 1 first."""
    made = (
        table_1(run, beside_paper=True),
        adaptive_table(run),
        interval_table(run),
        significance_table(run),
        fold_table(run),
        seed_table(run),
        worth_table(run),
    )
    return tuple(table for table in made if table)


def appendix_tables(run: Measures) -> tuple[Table, ...]:
    """Return the long tables for the end."""
    made = (
        mcnemar_table(run),
        *group_tables(run, "gender"),
        *group_tables(run, "emotion"),
        *group_tables(run, "speaker"),
        *flow_tables(run),
        protection_table(run),
        other_table(run),
    )
    return tuple(table for table in made if table)


def _head(run: Measures, column: Column) -> Head:
    """Return a heading, for one ε of FGSM with its size in dB and z-scores."""
    if column.attack != "fgsm" or column.mean:
        return Head(column.heading)
    return Head(column.heading, units_of(run.found.provenance).told(column.conditions[0].strength))


def table_1(run: Measures, *, beside_paper: bool = False) -> Table:
    """Return Table 1: the attacker who knows only the bare target, and the strictest adaptive PGD.

    Args:
        run: Numbers of a run.
        beside_paper: Whether the paper's row stands below each of ours that it has.
    """
    note = "FGSM and PGD know only the bare target" + (
        "; the last column knows the defence too." if run.last else "."
    )
    return _grid(
        run,
        run.columns,
        run.table,
        beside_paper=beside_paper and not set(paper.TABLE_1).isdisjoint(run.defences),
        title="UAR (%) under attack",
        note=note,
        name="table-1",
    )


def adaptive_table(run: Measures) -> Table | None:
    """Return the same for the attacker who knows the defence.

    None where the records hold nothing but the last adaptive PGD, the last column of `table_1`.
    """
    if not run.known_columns:
        return None
    return _grid(
        run,
        run.known_columns,
        measures(run.found, run.known_columns),
        title="UAR (%) under attack by one who knows the defence (adaptive)",
        note="FGSM and PGD take gradients through the defence itself; † marks a defence without "
        "useful gradients, which pass it unchanged (BPDA).",
        name="table-1-adaptive",
    )


def _grid(
    run: Measures,
    columns: Sequence[Column],
    frame: pd.DataFrame,
    *,
    title: str,
    note: str,
    name: str,
    beside_paper: bool = False,
) -> Table:
    fields = []
    for column in columns:
        heading = column.heading
        fields.append(Field(_head(run, column), _uar, heading, "uar_percent", published=_published))
        if column.mean:
            head = Head(heading.replace(" mean", " kept"), "of clean")
            fields.append(Field(head, _kept, heading, published=_published_kept))
    if any(column.mean for column in columns):
        note += (
            " A mean stands with the population standard deviation over its intensities, and with "
            "the share of the undefended target's clean UAR that it keeps."
        )
    note += " Bold: the best defence of a column."
    if beside_paper:
        note += (
            f" In italics below a row: the same row of the paper (clean UAR {paper.CLEAN_UAR}); "
            "the corpora differ, so compare the shares kept."
        )
    rows = lay_out(frame, fields, below=paper.NAME if beside_paper else "")
    measured = frame[frame["uar_percent"].notna() | frame["paper_uar_percent"].notna()]
    return Table(title, note, _heads(fields), rows, name=name, numbers=measured)


def _heads(fields: Sequence[Field], first: Head = _FIRST) -> tuple[Head, ...]:
    return (first, *(each.head for each in fields))


def _uar(row: Row) -> str:
    dagger = " †" if "bpda" in row["knowledge"] else ""
    return with_spread(row["uar_percent"], row["sd_over_intensities_percent"]) + dagger


def _kept(row: Row) -> str:
    return percentage(100 * row["over_clean"])


def _published(row: Row) -> str:
    """Return the paper's entry, with its two decimals."""
    return with_spread(row["paper_uar_percent"], row["paper_sd_over_intensities_percent"], 2)


def _published_kept(row: Row) -> str:
    return percentage(100 * row["paper_over_clean"])


def interval_table(run: Measures) -> Table | None:
    """Return the main columns with intervals; None for too few speakers."""
    if run.found.draws is None:
        return None
    wanted = [column.heading for column in run.main]
    frame = run.table[run.table["column"].isin(wanted) & run.table["uar_percent"].notna()]
    frame = frame[["defence", "column", "uar_percent", "low_percent", "high_percent"]]
    pairs = zip(frame["defence"], frame["column"], strict=True)
    frame = frame.assign(uar_percent=[run.uar(*pair) for pair in pairs])

    def text(row: Row) -> str:
        return with_interval(row["uar_percent"], row["low_percent"], row["high_percent"])

    fields = [Field(Head(h), text, h) for h in wanted if (frame["column"] == h).any()]
    speakers = np.unique(run.found.speakers).size
    return Table(
        "UAR (%) with 95 % intervals over speakers",
        f"Speakers are resampled, not utterances; there are {speakers} of them.",
        _heads(fields),
        lay_out(frame, fields, rows=run.defences),
        name="intervals",
        numbers=frame,
    )


def _over(run: Measures, frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Return mean, population sd and number of groups of each entry of a frame by group."""
    rows = []
    for defence in run.defences:
        for heading in (column.heading for column in columns):
            mine = frame[(frame["defence"] == defence) & (frame["column"] == heading)]
            if len(mine):
                told = over_folds(mine["percent"].to_numpy())
                rows.append((defence, heading, told.mean, told.sd, told.count))
    return pd.DataFrame(rows, columns=["defence", "column", "mean", "sd", "count"])


def _spread(row: Row) -> str:
    return with_spread(row["mean"], row["sd"])


def fold_table(run: Measures) -> Table | None:
    """Return the columns of Table 1 as mean ± sd over folds; None for a single fold."""
    if len(run.found.runs) < 2:
        return None
    frame = run.by("run", run.columns)
    told = _over(run, frame, run.columns)
    fields = [Field(_head(run, c), _spread, c.heading, "mean") for c in run.columns]
    folds = pd.DataFrame(frame["group"].tolist(), columns=["fold", "seed"])
    numbers = pd.concat([frame[["defence", "column"]], folds, frame["percent"]], axis=1)
    return Table(
        "UAR (%), mean ± standard deviation over folds",
        f"{len(run.found.runs)} folds × seeds; the standard deviation divides by n, as the "
        "paper's.",
        _heads(fields),
        lay_out(told.round({"mean": 1}), fields, rows=run.defences),
        name="folds",
        numbers=numbers.rename(columns={"percent": "uar_percent"}),
    )


def seed_table(run: Measures) -> Table | None:
    """Return the main columns as mean ± sd over seeds; None for a single seed."""
    seeds = run.found.seeds
    if len(seeds) < 2:
        return None
    told = _over(run, run.by("seed", run.main), run.main)
    fields = [Field(Head(c.heading), _spread, c.heading) for c in run.main]
    return Table(
        "UAR (%), mean ± standard deviation over seeds",
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}), the folds of each pooled; the "
        "standard deviation divides by n.",
        _heads(fields),
        lay_out(told, fields, rows=run.defences),
        name="uar-over-seeds",
        numbers=told.rename(columns={"count": "seeds"}),
    )


def worth_table(run: Measures) -> Table | None:
    """Return PE, RR and harm rate by defence; None without a defence."""
    told = run.worth
    if told.empty:
        return None
    kinds = {"mean": "PGD mean"} | ({"adaptive": run.last[0].heading} if run.last else {})
    fields = [
        _averages(run, measure, kind, Head(f"{measure}, {words}"))
        for measure in PROTECTION
        for kind, words in kinds.items()
    ]
    fields.append(
        Field(
            Head("harm rate", "clean input"),
            lambda row: percent_sign(100 * row["harm"]),
            best="harm",
            digits=3,
            lowest=True,
        )
    )
    strengths = [c.strength for c in run.found.conditions("pgd")]
    span = f"k = {min(strengths):g} … {max(strengths):g}" if strengths else "not measured"
    below = " In italics below a row: the paper's own averages." if run.published else ""
    digits = {f"{measure} {kind}": 2 for measure in PROTECTION for kind in kinds} | {"harm": 3}
    return Table(
        "Protection efficacy, recovery rate, harm rate",
        f"Mean ± population standard deviation over oblivious PGD with {span}.{below}",
        _heads(fields),
        lay_out(told.round(digits), fields, key="", below=paper.NAME),
        name="protection",
        numbers=told,
    )


def _averages(run: Measures, measure: str, kind: str, head: Head) -> Field:
    """Return the column of PE or RR, ``mean`` over the steps or ``adaptive``."""
    best = f"{measure} {kind}"

    def text(row: Row) -> str:
        spread = f" ± {number(row[f'{measure} sd'])}" if kind == "mean" else ""
        return number(row[best]) + spread

    def published(row: Row) -> str:
        found = run.published.get(row["defence"])
        if found is None or kind != "mean":
            return "–"
        told = found[1].efficacy if measure == "PE" else found[1].recovery
        return f"{told.mean:.3f} ± {told.sd:.3f}"

    return Field(head, text, best=best, digits=2, published=published)


def protection_table(run: Measures) -> Table | None:
    """Return PE and RR by number of steps; None without PGD or a defence."""
    told, frame = run.worth, run.protection
    if told.empty or not run.found.conditions("pgd"):
        return None
    values = {
        (row["defence"], str(row["k"]), row["measure"]): row["value"]
        for row in frame.to_dict("records")
    }
    lines = [str(int(c.strength)) for c in run.found.conditions("pgd")]
    for column in run.last:
        lines.append(column.heading)
        for row in told.to_dict("records"):
            for measure in PROTECTION:
                values[row["defence"], column.heading, measure] = row[f"{measure} adaptive"]
    entries = [
        {
            "k": line,
            "column": name,
            "text": " / ".join(number(values.get((name, line, m), np.nan)) for m in PROTECTION),
        }
        for line in lines
        for name in told["defence"]
    ]
    fields = [Field(Head(name), itemgetter("text"), name) for name in told["defence"]]
    return Table(
        "PE / RR for each number of PGD steps",
        "Oblivious PGD of k steps; the adaptive row knows the defence.",
        _heads(fields, Head("k")),
        lay_out(pd.DataFrame(entries), fields, row="k"),
        name="figure-2",
        numbers=frame,
    )


def other_table(run: Measures) -> Table | None:
    """Return what no other table shows; None when there is nothing."""
    columns = run.other_columns
    if not columns:
        return None
    frame = run.by("all", columns).round({"percent": 1})
    fields = [
        Field(Head(c.heading), lambda row: percentage(row["percent"]), c.heading, "percent")
        for c in columns
    ]
    return Table(
        "UAR (%) in all other conditions that were measured",
        "Columns: attack, strength and what the attacker knows.",
        _heads(fields),
        lay_out(frame, fields, rows=run.defences),
        name="other-conditions",
    )


def group_tables(run: Measures, group: str) -> tuple[Table, ...]:
    """Return the main columns by ``speaker``, ``gender`` or ``emotion``; nothing for one group.

    One table if it is narrow enough. Otherwise there is one per main column, the adaptive one
    directly after those that know less.
    """
    title, note, names = _groups(run, group)
    if len(names) < 2:
        return ()
    frame = run.by(group, run.main)
    details = (*names, "sd") if group == "speaker" else names
    narrow = len(details) * len(run.main) <= _WIDEST
    told = frame
    if group == "speaker":
        told = pd.concat([frame, _spreads(run, frame, names)], ignore_index=True)
    told = told.assign(key=pd.Series(zip(told["column"], told["group"], strict=True)))
    made = []
    for part in [run.main] if narrow else [(column,) for column in run.main]:
        headings = [column.heading for column in part]
        fields = [
            Field(
                Head(heading, detail) if narrow else Head(detail),
                lambda row: percentage(row["percent"]),
                (heading, detail),
            )
            for heading in headings
            for detail in details
        ]
        made.append(
            Table(
                title if narrow else f"{title}: {headings[0]}",
                note,
                _heads(fields),
                lay_out(told, fields, key="key", rows=run.defences),
                numbers=frame[frame["column"].isin(headings)],
            )
        )
    return tuple(made)


def _groups(run: Measures, group: str) -> tuple[str, str, tuple[str, ...]]:
    """Return title, note and names of a group."""
    found = run.found
    if group == "speaker":
        note = (
            "Over the classes that the speaker has; sd is the population standard deviation over "
            "speakers."
        )
        return "UAR (%) by speaker", note, tuple(np.unique(found.speakers).tolist())
    if group == "gender":
        names = np.unique(found.genders).tolist()
        counts = [np.unique(found.speakers[found.genders == name]).size for name in names]
        told = ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True))
        return "UAR (%) by gender", f"Speakers: {told}.", tuple(names)
    totals = np.bincount(found.labels, minlength=len(found.classes))
    counted = {n: count for n, count in zip(found.classes, totals, strict=True) if count}
    told = ", ".join(f"{count} {name}" for name, count in counted.items())
    return "Recall (%) by emotion", f"{_unit(run)}: {told}.", tuple(counted)


def _spreads(run: Measures, frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the sd over all groups of each entry; ``nan`` where one of them has none."""
    rows = []
    for (defence, heading), part in frame.groupby(["defence", "column"], sort=False):
        values = part.set_index("group")["percent"].reindex(list(names)).to_numpy()
        rows.append((defence, heading, "sd", float(np.std(values))))
    return pd.DataFrame(rows, columns=frame.columns)


def flow_tables(run: Measures) -> tuple[Table, ...]:
    """Return where answers go under the longest PGD of the grid, and under the adaptive attack."""
    names = {}
    if run.longest is not None:
        names[f"{run.longest.heading}, oblivious"] = run.longest
    names |= {column.heading: column for column in run.last}
    found = (_flow_table(run, name, column) for name, column in names.items())
    return tuple(table for table in found if table)


def _flow_table(run: Measures, condition: str, column: Column) -> Table | None:
    """Return true → predicted as counts and shares, one column per defence."""
    found, names = run.found, run.found.classes
    cells = {name: run.answers(name, column) for name in run.defences}
    answers = {name: stack[0] for name, stack in cells.items() if stack is not None}
    if not answers or len(names) < 2:
        return None
    totals = np.bincount(found.labels, minlength=len(names))
    matrices = {
        name: metrics.confusion(found.labels, answer, range(len(names)))
        for name, answer in answers.items()
    }
    mean = np.mean([m / np.maximum(totals, 1)[:, None] for m in matrices.values()], axis=0)
    places = [place for place in np.ndindex(*mean.shape) if totals[place[0]]]
    # Wrong answers first, the most frequent on top; then the right ones, so that a class adds up.
    places.sort(key=lambda place: (place[0] == place[1], -mean[place]))
    frame = pd.DataFrame(
        [
            {
                "defence": defence,
                "true": names[row],
                "predicted": names[column],
                "count": int(matrix[row, column]),
                "share": matrix[row, column] / totals[row],
            }
            for defence, matrix in matrices.items()
            for row, column in places
        ]
    )
    told, most = [], []
    for name in answers:
        truth, said = (np.array(names)[codes] for codes in (found.labels, answers[name]))
        largest = flows(truth, said, names)[0]
        way = f"{largest.truth} → {largest.predicted}" if largest.count else "none"
        told.append({"defence": name, "row": "largest flow", "text": way})
        size = f" ({largest.count}, {_share(largest.share)})" if largest.count else ""
        if name in (UNDEFENDED, *run.vaccines):
            most.append((name != UNDEFENDED, f"{name} {way}{size}"))
    for row in frame.to_dict("records"):
        right = row["true"] == row["predicted"]
        way = f"{row['true']}, right" if right else f"{row['true']} → {row['predicted']}"
        text = f"{row['count']} ({_share(row['share'])})"
        told.append({"defence": row["defence"], "row": way, "text": text})
    fields = [Field(Head(name), itemgetter("text"), name) for name in answers]
    start = [text for _, text in sorted(most, key=itemgetter(0))]
    return Table(
        f"Where answers go: {condition}",
        (f"The largest flow of wrong answers: {'; '.join(start)}." if start else "")
        + f" {_unit(run)} and share of the true class, by mean share over the defences.",
        _heads(fields, Head("true → predicted")),
        lay_out(pd.DataFrame(told), fields, row="row", key="defence"),
        numbers=frame,
    )


def _unit(run: Measures) -> str:
    return "Utterances" if len(run.found.seeds) == 1 else "Utterances × seeds"


def _share(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"
