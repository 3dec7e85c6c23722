"""The tables of a run, each declared as what stands in its rows and columns, and what is best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from servax.evaluation import metrics
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.statistics import over_folds
from servax.report import paper
from servax.report.measures import PROTECTION, Column, Measures
from servax.report.significance import mcnemar_table, significance_table
from servax.report.tables import (
    MISSING,
    Field,
    Head,
    Row,
    Table,
    number,
    percent_sign,
    percentage,
    pivot,
    with_interval,
    with_spread,
)

_WIDEST = 12  # so many columns of numbers fit on the page


def main_tables(run: Measures) -> tuple[Table, ...]:
    """Return the tables of a run that it can fill, Table 1 first."""
    made = (
        table_1(run, beside_paper=True),
        adaptive_table(run),
        interval_table(run),
        significance_table(run),
        spread_table(run, "run"),
        spread_table(run, "seed"),
        worth_table(run),
    )
    return tuple(table for table in made if table)


def appendix_tables(run: Measures) -> tuple[Table, ...]:
    """Return the long tables for the end."""
    made = (
        mcnemar_table(run),
        *(
            table
            for group in ("gender", "emotion", "speaker")
            for table in group_tables(run, group)
        ),
        *flow_tables(run),
        protection_table(run),
        other_table(run),
    )
    return tuple(table for table in made if table)


def table_1(run: Measures, *, beside_paper: bool = False) -> Table:
    """Return Table 1: the attacker who knows only the bare target, and the strictest adaptive PGD.

    Args:
        run: Numbers of a run.
        beside_paper: Whether the paper's row stands below each of ours that it has.
    """
    below = beside_paper and not set(paper.TABLE_1).isdisjoint(run.defences)
    last = "; the last column knows the defence too." if run.last else "."
    beside = (
        f" In italics below a row: the same row of the paper (clean UAR {paper.CLEAN_UAR}); "
        "the corpora differ, so compare the shares kept."
    )
    return _uar_table(
        run,
        run.columns,
        run.table,
        below=paper.NAME if below else "",
        title="UAR (%) under attack",
        note=f"FGSM and PGD know only the bare target{last}{_rules(run.columns)}{beside * below}",
        name="table-1",
    )


def adaptive_table(run: Measures) -> Table | None:
    """Return the same for the attacker who knows the defence.

    None where the records hold nothing but the last adaptive PGD, the last column of `table_1`.
    """
    columns = run.known_columns
    if not columns:
        return None
    return _uar_table(
        run,
        columns,
        run.entries(columns),
        title="UAR (%) under attack by one who knows the defence (adaptive)",
        note="FGSM and PGD take gradients through the defence itself; † marks a defence without "
        "useful gradients, which pass it unchanged (BPDA)." + _rules(columns),
        name="table-1-adaptive",
    )


def _rules(columns: Sequence[Column]) -> str:
    spread = (
        " A mean stands with the population standard deviation over its intensities, and with the "
        "share of the undefended target's clean UAR that it keeps."
    )
    return spread * any(c.mean for c in columns) + " Bold: the best defence of a column."


def _uar_table(
    run: Measures, columns: Sequence[Column], frame: pd.DataFrame, **layout: Any
) -> Table:
    """Return each entry of some columns, and of a mean the share of the clean UAR."""

    def uar(row: Row) -> str:
        dagger = " †" if "bpda" in row["knowledge"] else ""
        return with_spread(row["uar_percent"], row["sd_over_intensities_percent"]) + dagger

    def theirs(row: Row) -> str:
        return with_spread(row["paper_uar_percent"], row["paper_sd_over_intensities_percent"], 2)

    def share(of: str) -> Callable[[Row], str]:
        return lambda row: percentage(100 * row[of])

    fields = []
    for column in columns:
        head = _head(run, column)
        fields.append(Field(head, uar, column.heading, "uar_percent", published=theirs))
        if column.mean:
            kept = Head(column.heading.replace(" mean", " kept"), "of clean")
            ours, paper_s = share("over_clean"), share("paper_over_clean")
            fields.append(Field(kept, ours, column.heading, published=paper_s))
    measured = frame["uar_percent"].notna() | frame["paper_uar_percent"].notna()
    return pivot(frame, fields, numbers=frame[measured], **layout)


def _head(run: Measures, column: Column) -> Head:
    """Return a heading, for one ε of FGSM with its size in dB and z-scores."""
    if column.attack != "fgsm" or column.mean:
        return Head(column.heading)
    return Head(column.heading, run.units.told(column.conditions[0].strength))


def interval_table(run: Measures) -> Table | None:
    """Return the main columns with intervals; None for too few speakers."""
    if run.found.draws is None:
        return None
    frame = run.table.merge(run.by("all", run.main), on=["defence", "column"])
    frame = frame.assign(uar_percent=frame["percent"])
    frame = frame[["defence", "column", "uar_percent", "low_percent", "high_percent"]]
    heads = {c.heading: Head(c.heading) for c in run.main if (frame["column"] == c.heading).any()}
    return with_intervals(run, frame, heads, title="UAR (%) with 95 % intervals over speakers")


def with_intervals(
    run: Measures, frame: pd.DataFrame, heads: Mapping[Any, Head], **layout: Any
) -> Table:
    """Return a table of UARs, each with its interval; `heads` by key of its column."""

    def text(row: Row) -> str:
        return with_interval(row["uar_percent"], row["low_percent"], row["high_percent"])

    speakers = np.unique(run.found.speakers).size
    return pivot(
        frame,
        [Field(head, text, key) for key, head in heads.items()],
        rows=run.defences,
        note=f"Speakers are resampled, not utterances; there are {speakers} of them.",
        name="intervals",
        numbers=frame,
        **layout,
    )


def spread_table(run: Measures, group: str) -> Table | None:
    """Return mean ± sd over runs (each fold with each seed) or seeds; None for a single one."""
    over_runs, seeds = group == "run", run.found.seeds
    columns = run.columns if over_runs else run.main
    frame, rows = run.by(group, columns), []
    for (defence, column), part in frame.groupby(["defence", "column"], sort=False):
        told = over_folds(part["percent"].to_numpy())
        rows.append((defence, column, told.mean, told.sd, told.count))
    spread = pd.DataFrame(rows, columns=["defence", "column", "mean", "sd", "seeds"])
    if spread["seeds"].max() < 2:
        return None

    def text(row: Row) -> str:
        return with_spread(row["mean"], row["sd"])

    layout: dict[str, Any] = {
        "title": "UAR (%), mean ± standard deviation over seeds",
        "note": f"{len(seeds)} seeds ({', '.join(map(str, seeds))}), the folds of each pooled; "
        "the standard deviation divides by n.",
        "name": "uar-over-seeds",
        "numbers": spread,
    }
    if over_runs:
        fold, seed = zip(*frame["group"], strict=True)
        cells = frame[["defence", "column"]]
        layout = {
            "title": "UAR (%), mean ± standard deviation over folds",
            "note": f"{len(run.found.runs)} folds × seeds; the standard deviation divides by n, as "
            "the paper's.",
            "name": "folds",
            "numbers": cells.assign(fold=fold, seed=seed, uar_percent=frame["percent"]),
        }
    best = "mean" if over_runs else ""
    fields = [Field(_head(run, c), text, c.heading, best) for c in columns]
    shown = spread.round({"mean": 1}) if over_runs else spread
    return pivot(shown, fields, rows=run.defences, **layout)


def worth_table(run: Measures) -> Table | None:
    """Return PE, RR and harm rate by defence; None without a defence."""
    if run.worth.empty:
        return None

    def average(measure: str, kind: str, words: str) -> Field:
        """Return the column of PE or RR, ``mean`` over the steps or ``adaptive``."""
        best, mean = f"{measure} {kind}", kind == "mean"

        def text(row: Row) -> str:
            return number(row[best]) + (f" ± {number(row[f'{measure} sd'])}" if mean else "")

        def published(row: Row) -> str:
            found = run.published.get(row["defence"]) if mean else None
            return "{:.3f} ± {:.3f}".format(*found[1][measure]) if found else MISSING

        head = Head(f"{measure}, {words}")
        return Field(head, text, best=best, digits=2, published=published)

    kinds = {"mean": "PGD mean"} | ({"adaptive": run.last[0].heading} if run.last else {})
    harm = Field(
        Head("harm rate", "clean input"),
        lambda row: percent_sign(100 * row["harm"]),
        best="harm",
        digits=3,
        lowest=True,
    )
    strengths = [c.strength for c in run.found.conditions("pgd")]
    span = f"k = {min(strengths):g} … {max(strengths):g}" if strengths else "not measured"
    below = " In italics below a row: the paper's own averages." if run.published else ""
    return pivot(
        run.worth.round({f"{m} {kind}": 2 for m in PROTECTION for kind in kinds} | {"harm": 3}),
        [*(average(m, kind, words) for m in PROTECTION for kind, words in kinds.items()), harm],
        key="",
        below=paper.NAME,
        title="Protection efficacy, recovery rate, harm rate",
        note=f"Mean ± population standard deviation over oblivious PGD with {span}.{below}",
        name="protection",
        numbers=run.worth,
    )


def protection_table(run: Measures) -> Table | None:
    """Return PE and RR by number of steps; None without PGD or a defence."""
    steps = [str(int(c.strength)) for c in run.found.conditions("pgd")]
    if run.worth.empty or not steps:
        return None
    told = [
        {"defence": defence, "row": str(k), **part.set_index("measure")["value"]}
        for (defence, k), part in run.protection.groupby(["defence", "k"], sort=False)
    ]
    told += [
        {"defence": row["defence"], "row": column.heading}
        | {measure: row[f"{measure} adaptive"] for measure in PROTECTION}
        for column in run.last
        for row in run.worth.to_dict("records")
    ]

    def both(row: Row) -> str:
        return " / ".join(number(row[measure]) for measure in PROTECTION)

    return pivot(
        pd.DataFrame(told),
        [Field(Head(name), both, name) for name in run.worth["defence"]],
        first="k",
        row="row",
        key="defence",
        rows=[*steps, *(column.heading for column in run.last)],
        title="PE / RR for each number of PGD steps",
        note="Oblivious PGD of k steps; the adaptive row knows the defence.",
        name="figure-2",
        numbers=run.protection,
    )


def _percent(head: Head, where: object, best: str = "") -> Field:
    return Field(head, lambda row: percentage(row["percent"]), where, best)


def other_table(run: Measures) -> Table | None:
    """Return what no other table shows; None when there is nothing."""
    columns = run.other_columns
    if not columns:
        return None
    return pivot(
        run.by("all", columns).round({"percent": 1}),
        [_percent(Head(c.heading), c.heading, "percent") for c in columns],
        rows=run.defences,
        title="UAR (%) in all other conditions that were measured",
        note="Columns: attack, strength and what the attacker knows.",
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
    frame = told = run.by(group, run.main)
    if group == "speaker":
        entries = frame.groupby(["defence", "column"], sort=False)["percent"]
        spread = entries.agg(lambda values: float(np.std(values.to_numpy()))).reset_index()
        told = pd.concat([frame, spread.assign(group="sd")], ignore_index=True)
    told = told.assign(key=pd.Series(zip(told["column"], told["group"], strict=True)))
    details = (*names, "sd") if group == "speaker" else names
    narrow = len(details) * len(run.main) <= _WIDEST
    headings = [column.heading for column in run.main]
    return tuple(
        pivot(
            told,
            [
                _percent(Head(heading, detail) if narrow else Head(detail), (heading, detail))
                for heading in part
                for detail in details
            ],
            key="key",
            rows=run.defences,
            title=title if narrow else f"{title}: {part[0]}",
            note=note,
            numbers=frame[frame["column"].isin(part)],
        )
        for part in ([headings] if narrow else [[heading] for heading in headings])
    )


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
        pairs = {(g, s) for g, s in zip(found.genders, found.speakers, strict=True)}
        counts = Counter(str(gender) for gender, _ in sorted(pairs))
        title, words = "UAR (%) by gender", "Speakers"
    else:
        counts = Counter(found.classes[label] for label in np.sort(found.labels))
        title, words = "Recall (%) by emotion", _unit(run)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return title, f"{words}: {told}.", tuple(counts)


def flow_tables(run: Measures) -> tuple[Table, ...]:
    """Return where answers go under the longest PGD of the grid, and under the adaptive attack."""
    longest = {f"{run.longest.heading}, oblivious": run.longest} if run.longest else {}
    columns = longest | {column.heading: column for column in run.last}
    found = (_flow_table(run, name, column) for name, column in columns.items())
    return tuple(table for table in found if table)


def _flow_table(run: Measures, condition: str, column: Column) -> Table | None:
    """Return true → predicted as counts and shares, one column per defence."""
    found, names = run.found, np.array(run.found.classes)
    cells = {name: run.answers(name, column) for name in run.defences}
    answers = {name: cell[0] for name, cell in cells.items() if cell is not None}
    if not answers or len(names) < 2:
        return None
    totals = np.bincount(found.labels, minlength=len(names))
    rows = []
    for name, answer in answers.items():
        counts = metrics.confusion(found.labels, answer, range(len(names)))
        for i, j in (place for place in np.ndindex(*counts.shape) if totals[place[0]]):
            rows.append((name, names[i], names[j], int(counts[i, j]), counts[i, j] / totals[i]))
    frame = pd.DataFrame(rows, columns=["defence", "true", "predicted", "count", "share"])
    right = frame["true"] == frame["predicted"]
    told, largest = [], []
    # Shares rank, not counts, since each class weighs the same in the UAR too.
    ranked = frame[~right].sort_values(["share", "count"], ascending=False, kind="stable")
    for name in answers:
        most = ranked[ranked["defence"] == name].iloc[0]
        way = f"{most['true']} → {most['predicted']}" if most["count"] else "none"
        told.append((name, "largest flow", way))
        if name == UNDEFENDED or name in run.vaccines:
            size = f" ({most['count']}, {_share(most['share'])})" if most["count"] else ""
            largest.append(f"{name} {way}{size}")
    # Wrong answers first, the most frequent on top; then the right ones, so that a class adds up.
    mean = frame.groupby(["true", "predicted"])["share"].transform(lambda s: np.mean(s.to_numpy()))
    order = frame.assign(right=right, mean=-mean, place=frame["defence"].map(list(answers).index))
    frame = frame.loc[order.sort_values(["place", "right", "mean"], kind="stable").index]
    for name, true, predicted, count, share in frame.itertuples(index=False):
        way = f"{true} → {predicted}" if true != predicted else f"{true}, right"
        told.append((name, way, f"{count} ({_share(share)})"))
    largest = largest[-1:] + largest[:-1] if UNDEFENDED in answers else largest
    start = f"The largest flow of wrong answers: {'; '.join(largest)}. " if largest else ""
    return pivot(
        pd.DataFrame(told, columns=["defence", "row", "text"]),
        [Field(Head(name), itemgetter("text"), name) for name in answers],
        first="true → predicted",
        row="row",
        key="defence",
        title=f"Where answers go: {condition}",
        note=f"{start}{_unit(run)} and share of the true class, by mean share over the defences.",
        numbers=frame,
    )


def _unit(run: Measures) -> str:
    return "Utterances" if len(run.found.seeds) == 1 else "Utterances × seeds"


def _share(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"
