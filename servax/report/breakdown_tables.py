"""Who gains from a defence, at which feeling, and where wrong answers go: tables for the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.metrics import Flow, flows, recall_by_class, uar_by_group
from servax.report import tables, wording
from servax.report.cells import Cell, Head, TextTable
from servax.report.main_columns import cells, longest_pgd, main_columns, vaccines
from servax.report.outcomes import UNDEFENDED, Condition, Outcomes

__all__ = ["breakdown_tables", "emotion_tables", "flow_tables", "gender_tables", "speaker_tables"]

_WIDEST = 12  # so many columns of numbers fit on the page

_Measure = Callable[[NDArray[np.intp]], Mapping[str, float]]


def breakdown_tables(outcomes: Outcomes) -> tuple[TextTable, ...]:
    """Return all tables of this module that the records can fill."""
    return (
        *gender_tables(outcomes),
        *emotion_tables(outcomes),
        *speaker_tables(outcomes),
        *flow_tables(outcomes),
    )


def speaker_tables(outcomes: Outcomes) -> tuple[TextTable, ...]:
    """Return UAR by speaker with its spread; nothing for a single speaker."""
    return _by_group(
        outcomes,
        np.unique(outcomes.speakers).tolist(),
        lambda predictions: uar_by_group(outcomes.labels, predictions, outcomes.speakers),
        title="UAR (%) by speaker",
        note="Over the classes that the speaker has; sd is the population standard deviation over "
        "speakers.",
        spread=True,
    )


def gender_tables(outcomes: Outcomes) -> tuple[TextTable, ...]:
    """Return UAR by gender; nothing where all speakers share one."""
    names = np.unique(outcomes.genders).tolist()
    counts = [np.unique(outcomes.speakers[outcomes.genders == name]).size for name in names]
    told = ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True))
    return _by_group(
        outcomes,
        names,
        lambda predictions: uar_by_group(outcomes.labels, predictions, outcomes.genders),
        title="UAR (%) by gender",
        note=f"Speakers: {told}.",
    )


def emotion_tables(outcomes: Outcomes) -> tuple[TextTable, ...]:
    """Return the recall of each class; nothing where the labels hold a single one."""
    counts = np.bincount(outcomes.labels, minlength=len(outcomes.classes))
    present = [name for name, count in zip(outcomes.classes, counts, strict=True) if count]

    def measure(predictions: NDArray[np.intp]) -> Mapping[str, float]:
        found = recall_by_class(outcomes.labels, predictions)
        return {outcomes.classes[int(code)]: recall for code, recall in found.items()}

    told = ", ".join(f"{count} {outcomes.classes[i]}" for i, count in enumerate(counts) if count)
    return _by_group(
        outcomes,
        present,
        measure,
        title="Recall (%) by emotion",
        note=f"{_unit(outcomes)}: {told}.",
    )


def _by_group(
    outcomes: Outcomes,
    groups: Sequence[str],
    measure: _Measure,
    *,
    title: str,
    note: str,
    spread: bool = False,
) -> tuple[TextTable, ...]:
    """Return `measure` for each defence, main column and group: one table if it is narrow enough.

    Otherwise there is one per main column, the adaptive one directly after those that know less.
    """
    if len(groups) < 2:
        return ()
    headings = main_columns(outcomes)
    details = (*groups, "sd") if spread else tuple(groups)
    narrow = len(details) * len(headings) <= _WIDEST
    found = {
        (defence, heading): _measured(outcomes, defence, heading, measure)
        for defence in outcomes.defences
        for heading in headings
    }

    def entries(defence: str, heading: str) -> list[Cell]:
        values = [100 * found[defence, heading].get(name, np.nan) for name in groups]
        values += [float(np.std(values))] if spread else []
        return [Cell(wording.percentage(value)) for value in values]

    return tuple(
        TextTable(
            title=title if narrow else f"{title}: {', '.join(part)}",
            note=note,
            head=(
                Head("defence"),
                *(
                    Head(heading, detail) if narrow else Head(detail)
                    for heading in part
                    for detail in details
                ),
            ),
            rows=tuple(
                (Cell(defence), *(cell for heading in part for cell in entries(defence, heading)))
                for defence in outcomes.defences
            ),
            numbers=pd.DataFrame(
                [
                    {"defence": d, "column": h, "group": name, "percent": 100 * value}
                    for (d, h), values in found.items()
                    for name, value in values.items()
                    if h in part
                ]
            ),
        )
        for part in ([headings] if narrow else [(heading,) for heading in headings])
    )


def _measured(
    outcomes: Outcomes, defence: str, heading: str, measure: _Measure
) -> Mapping[str, float]:
    predictions = cells(outcomes, defence, heading)
    return {} if predictions is None else measure(predictions)


def flow_tables(outcomes: Outcomes) -> tuple[TextTable, ...]:
    """Return where answers go under the longest PGD of the grid, and under the adaptive attack."""
    found = []
    longest = longest_pgd(outcomes)
    if longest is not None:
        name = f"{tables.strength_name(longest)}, oblivious"
        found.append(_flow_table(outcomes, name, dict.fromkeys(outcomes.defences, longest)))
    if outcomes.adaptive_steps:
        name = tables.adaptive_column(outcomes)
        strictest = {defence: outcomes.adaptive(defence) for defence in outcomes.defences}
        found.append(_flow_table(outcomes, name, strictest))
    return tuple(table for table in found if table)


def _flow_table(
    outcomes: Outcomes, condition: str, attacks: Mapping[str, Condition | None]
) -> TextTable | None:
    """Return true → predicted as counts and shares, one column per defence."""
    names = outcomes.classes
    matrices: dict[str, NDArray[np.int64]] = {}
    largest: dict[str, Flow] = {}
    for defence, attack in attacks.items():
        predictions = outcomes.predictions(defence, attack)
        if predictions is None:
            continue
        codes = range(len(names))
        matrices[defence] = metrics.confusion(outcomes.labels, predictions, codes)
        largest[defence] = flows(
            np.array(names)[outcomes.labels], np.array(names)[predictions], names
        )[0]
    if not matrices or len(names) < 2:
        return None
    totals = np.bincount(outcomes.labels, minlength=len(names))
    mean = np.mean(
        [matrix / np.maximum(totals, 1)[:, None] for matrix in matrices.values()], axis=0
    )
    places = [place for place in np.ndindex(*mean.shape) if totals[place[0]]]
    # Wrong answers first, the most frequent on top; then the right ones, so that a class adds up.
    places.sort(key=lambda place: (place[0] == place[1], -mean[place]))

    def row(place: tuple[int, int]) -> tuple[Cell, ...]:
        truth, predicted = (names[i] for i in place)
        name = f"{truth} → {predicted}" if truth != predicted else f"{truth}, right"
        counts = [int(matrix[place]) for matrix in matrices.values()]
        return (Cell(name), *(Cell(f"{n} ({_share(n / totals[place[0]])})") for n in counts))

    return TextTable(
        title=f"Where answers go: {condition}",
        note=_largest(largest, [UNDEFENDED, *vaccines(outcomes)])
        + f" {_unit(outcomes)} and share of the true class, by mean share over the defences.",
        head=(Head("true → predicted"), *map(Head, matrices)),
        rows=(
            (Cell("largest flow"), *(Cell(_named(flow)) for flow in largest.values())),
            *map(row, places),
        ),
        numbers=pd.DataFrame(
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
        ),
    )


def _unit(outcomes: Outcomes) -> str:
    return "Utterances" if len(outcomes.seeds) == 1 else "Utterances × seeds"


def _share(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _named(flow: Flow) -> str:
    return f"{flow.truth} → {flow.predicted}" if flow.count else "none"


def _largest(largest: Mapping[str, Flow], wanted: Sequence[str]) -> str:
    """Return the sentence that names the largest flow of the defences that matter most."""
    told = [
        f"{name} {_named(largest[name])}"
        + (
            f" ({largest[name].count}, {_share(largest[name].share)})"
            if largest[name].count
            else ""
        )
        for name in wanted
        if name in largest
    ]
    return f"The largest flow of wrong answers: {'; '.join(told)}." if told else ""
