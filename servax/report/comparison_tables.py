"""Is SSAD better than what stands beside it? Paired tests as tables of text."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from servax.evaluation.statistics import (
    Comparison,
    Discordance,
    holm,
    mcnemar,
    speaker_permutation,
)
from servax.report import tables, wording
from servax.report.cells import Cell, Head, TextTable
from servax.report.main_columns import cells, longest_pgd, main_columns, vaccines
from servax.report.order import UNDEFENDED, family
from servax.report.outcomes import Condition, Outcomes

__all__ = ["mcnemar_table", "opponents", "pairs", "significance_table"]

LEVEL = 0.05
"""Below this adjusted p-value a difference gets its star."""

RESAMPLES = 9999
SEED = 0

_TRAINED = ("similarity", "vanilla", "pgd-at", "trades")


def pairs(outcomes: Outcomes) -> tuple[tuple[str, str], ...]:
    """Return each form of SSAD with every other defence, no pair twice."""
    found: list[tuple[str, str]] = []
    for first in vaccines(outcomes):
        for second in outcomes.defences:
            if second != first and (second, first) not in found:
                found.append((first, second))
    return tuple(found)


def _p(p: float) -> str:
    """Return ``p 0.012 *`` or ``p < 0.001 *``."""
    return ("p < 0.001" if p < 0.001 else f"p {p:.3f}") + (" *" if p < LEVEL else "")


class _Test(NamedTuple):
    """An entry of the significance table."""

    first: str
    second: str
    heading: str
    found: Comparison


def _tests(outcomes: Outcomes) -> list[_Test]:
    """Return every test that the records can fill, row by row."""
    made = []
    for first, second in pairs(outcomes):
        for heading in main_columns(outcomes):
            ours, theirs = cells(outcomes, first, heading), cells(outcomes, second, heading)
            if ours is None or theirs is None:
                continue
            found = speaker_permutation(
                outcomes.labels,
                ours,
                theirs,
                outcomes.speakers,
                generator=np.random.default_rng(SEED),
                resamples=RESAMPLES,
            )
            made.append(_Test(first, second, heading, found))
    return made


def significance_table(outcomes: Outcomes) -> TextTable | None:
    """Return SSAD against every other defence: difference in points and adjusted p-value.

    Returns:
        One row per pair, one column per main column; None without SSAD, without another defence,
        or with fewer than two speakers.
    """
    tests = _tests(outcomes) if np.unique(outcomes.speakers).size >= 2 else []
    if not tests:
        return None
    adjusted = holm([test.found.p for test in tests]).tolist()
    texts = {
        (test.first, test.second, test.heading): f"{_points(test.found)}, {_p(p)}"
        for test, p in zip(tests, adjusted, strict=True)
    }
    headings = main_columns(outcomes)
    return TextTable(
        title="SSAD against every other defence: difference in UAR points",
        note=_note([test.found for test in tests]),
        head=(Head("defences"), *map(Head, headings)),
        rows=tuple(
            (
                Cell(f"{first} vs {second}"),
                *(Cell(texts.get((first, second, h), wording.MISSING)) for h in headings),
            )
            for first, second in pairs(outcomes)
        ),
        name="significance",
        numbers=pd.DataFrame(
            [
                {
                    "first": test.first,
                    "second": test.second,
                    "column": test.heading,
                    "difference_points": 100 * test.found.difference,
                    "p": test.found.p,
                    "p_holm": p,
                    "speakers": test.found.speakers,
                    "exact": test.found.exact,
                }
                for test, p in zip(tests, adjusted, strict=True)
            ]
        ),
    )


def _points(test: Comparison) -> str:
    text = wording.percentage(100 * test.difference)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def _note(made: list[Comparison]) -> str:
    """Return how the tests were made and what they could have shown at best."""
    test, count = made[0], len(made)
    how = (
        f"all 2^{test.speakers} swaps counted (exact)"
        if test.exact
        else f"{RESAMPLES} swaps drawn (Monte Carlo, seed {SEED})"
    )
    fraction = f"2 / 2^{test.speakers}" if test.exact else f"1 / {RESAMPLES + 1}"
    least = min(count * test.smallest_p, 1.0)
    speakers = f"{test.speakers} speakers"
    warning = (
        ""
        if least < LEVEL
        else f"With {speakers} and {count} tests no difference, however large, can get a star: a "
        "large p says nothing here. "
    )
    return (
        f"{warning}Pooled UAR of the first minus that of the second. Two-sided permutation test "
        f"that swaps all predictions of a speaker at once: {speakers}, {how}. p is adjusted by "
        f"Holm over all {count} tests of this table; * marks p < {LEVEL:g}. The smallest p "
        f"possible is {fraction} = {test.smallest_p:.3g}, and {least:.3g} once adjusted. "
        "Under the adaptive attack each defence meets its own."
    )


def opponents(outcomes: Outcomes) -> tuple[str, ...]:
    """Return the best adversarially trained model and the best other defence.

    Best is the highest mean over PGD; SSAD and the undefended target are no opponents.
    """
    conditions = tables.grid_columns(outcomes).get("PGD mean", ())
    scores: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for name in outcomes.defences:
        score = tables.percent(outcomes, name, conditions)
        if family(name) not in ("ssad", UNDEFENDED) and not math.isnan(score):
            scores[family(name) in _TRAINED][name] = score
    return tuple(max(group, key=lambda name: group[name]) for group in scores.values() if group)


class _Duel(NamedTuple):
    """A column of the second look: who meets whom, and under what."""

    heading: str
    first: str
    second: str
    ours: Condition | None
    theirs: Condition | None


def _duels(outcomes: Outcomes) -> list[_Duel]:
    longest = longest_pgd(outcomes)
    if longest is None:
        return []
    both = [(first, second) for first in vaccines(outcomes) for second in opponents(outcomes)]
    duels = [_Duel(tables.strength_name(longest), *pair, longest, longest) for pair in both]
    if outcomes.adaptive_steps:
        name = tables.adaptive_column(outcomes)
        duels += [_Duel(name, a, b, outcomes.adaptive(a), outcomes.adaptive(b)) for a, b in both]
    return duels


def _discordances(outcomes: Outcomes) -> dict[tuple[int, _Duel], Discordance]:
    """Return McNemar's test of each run and duel that the records can fill."""
    found = {}
    for run in range(len(outcomes.runs)):
        rows = outcomes.folds == run
        for duel in _duels(outcomes):
            ours = outcomes.predictions(duel.first, duel.ours)
            theirs = outcomes.predictions(duel.second, duel.theirs)
            if ours is not None and theirs is not None:
                found[run, duel] = mcnemar(outcomes.labels[rows], ours[rows], theirs[rows])
    return found


def mcnemar_table(outcomes: Outcomes) -> TextTable | None:
    """Return the second look: McNemar's test per fold and seed at the longest PGD of the grid.

    Returns:
        One row per fold and seed; None without SSAD, an opponent or PGD.
    """
    tests = _discordances(outcomes)
    if not tests:
        return None
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]).tolist(), strict=True))
    texts = {
        key: f"{test.first_only} : {test.second_only}, {_p(adjusted[key])}"
        for key, test in tests.items()
    }
    duels = _duels(outcomes)
    return TextTable(
        title="A second look: McNemar's test for each fold",
        note="Utterances that only the first : only the second defence gets right, against the "
        "best adversarially trained model and the best other defence (by PGD mean). Exact binomial "
        f"test, two-sided, p adjusted by Holm over all {len(tests)} tests of this table; * marks "
        f"p < {LEVEL:g}. It takes utterances of one speaker as independent, which they are not: "
        "the test over speakers decides.",
        head=(Head("fold"), *(Head(d.heading, f"{d.first} : {d.second}") for d in duels)),
        rows=tuple(
            (
                Cell(f"fold {fold}, seed {seed}"),
                *(Cell(texts.get((run, duel), wording.MISSING)) for duel in duels),
            )
            for run, (fold, seed) in enumerate(outcomes.runs)
        ),
        name="mcnemar",
        numbers=pd.DataFrame(
            [
                {
                    "fold": outcomes.runs[run][0],
                    "seed": outcomes.runs[run][1],
                    "column": duel.heading,
                    "first": duel.first,
                    "second": duel.second,
                    "first_only": test.first_only,
                    "second_only": test.second_only,
                    "p": test.p,
                    "p_holm": adjusted[run, duel],
                }
                for (run, duel), test in tests.items()
            ]
        ),
    )
