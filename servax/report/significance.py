"""Is SSAD better than what stands beside it? Paired tests as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from servax.evaluation.records import UNDEFENDED
from servax.evaluation.statistics import Comparison, holm, mcnemar, speaker_permutation
from servax.report.measures import Column, Measures
from servax.report.predictions import TRAINED, family
from servax.report.tables import Field, Head, Row, Table, pivot, signed

LEVEL = 0.05
"""Below this adjusted p-value a difference gets its star."""
RESAMPLES = 9999
SEED = 0


def pairs(run: Measures) -> tuple[tuple[str, str], ...]:
    """Return each form of SSAD with every other defence, no pair twice."""
    found: list[tuple[str, str]] = []
    for first, second in product(run.vaccines, run.defences):
        if second != first and (second, first) not in found:
            found.append((first, second))
    return tuple(found)


def opponents(run: Measures) -> tuple[str, ...]:
    """Return the best adversarially trained model and the best other defence, by PGD mean.

    SSAD and the undefended target are no opponents.
    """
    uars = {name: run.uar(name, "PGD mean") for name in run.defences}
    others = [n for n in uars if not np.isnan(uars[n]) and family(n) not in ("ssad", UNDEFENDED)]
    kinds = ([n for n in others if (family(n) in TRAINED) == trained] for trained in (True, False))
    return tuple(max(kin, key=lambda name: uars[name]) for kin in kinds if kin)


def _p(p: float) -> str:
    """Return ``p 0.012 *`` or ``p < 0.001 *``."""
    return ("p < 0.001" if p < 0.001 else f"p {p:.3f}") + (" *" if p < LEVEL else "")


def significance_table(run: Measures) -> Table | None:
    """Return SSAD against every other defence: difference in points and adjusted p-value.

    Returns:
        One row per pair, one column per main column; None without SSAD, without another defence,
        or with fewer than two speakers.
    """
    found, tests, rows = run.found, [], []
    few = np.unique(found.speakers).size < 2
    for (first, second), column in product(() if few else pairs(run), run.main):
        ours, theirs = run.answers(first, column), run.answers(second, column)
        if ours is None or theirs is None:
            continue
        seeded = np.random.default_rng(SEED)
        test = speaker_permutation(
            found.labels, ours, theirs, found.speakers, generator=seeded, resamples=RESAMPLES
        )
        tests.append(test)
        rows.append((first, second, column.heading, 100 * test.difference, test.p))
    if not rows:
        return None
    named = ["first", "second", "column", "difference_points", "p"]
    frame = pd.DataFrame(rows, columns=named).assign(
        p_holm=holm([test.p for test in tests]),
        speakers=[test.speakers for test in tests],
        exact=[test.exact for test in tests],
    )

    def text(row: Row) -> str:
        return f"{signed(row['difference_points'])}, {_p(row['p_holm'])}"

    return pivot(
        frame.assign(row=frame["first"] + " vs " + frame["second"]),
        [Field(Head(c.heading), text, c.heading) for c in run.main],
        first="defences",
        row="row",
        rows=[f"{first} vs {second}" for first, second in pairs(run)],
        title="SSAD against every other defence: difference in UAR points",
        note=_note(tests),
        name="significance",
        numbers=frame,
    )


def _note(made: Sequence[Comparison]) -> str:
    """Return how the tests were made and what they could have shown at best."""
    test, count = made[0], len(made)
    how, fraction = (
        (f"all 2^{test.speakers} swaps counted (exact)", f"2 / 2^{test.speakers}")
        if test.exact
        else (f"{RESAMPLES} swaps drawn (Monte Carlo, seed {SEED})", f"1 / {RESAMPLES + 1}")
    )
    least = min(count * test.smallest_p, 1.0)
    speakers = f"{test.speakers} speakers"
    warning = (
        f"With {speakers} and {count} tests no difference, however large, can get a star: a "
        "large p says nothing here. "
    )
    return (
        f"{warning * (least >= LEVEL)}Pooled UAR of the first minus that of the second. Two-sided "
        f"permutation test that swaps all predictions of a speaker at once: {speakers}, {how}. p "
        f"is adjusted by Holm over all {count} tests of this table; * marks p < {LEVEL:g}. The "
        f"smallest p possible is {fraction} = {test.smallest_p:.3g}, and {least:.3g} once "
        "adjusted. Under the adaptive attack each defence meets its own."
    )


def mcnemar_table(run: Measures) -> Table | None:
    """Return the second look: McNemar's test per fold and seed at the longest PGD of the grid.

    Returns:
        One row per fold and seed; None without SSAD, an opponent or PGD.
    """
    found = run.found
    columns: tuple[Column, ...] = (run.longest, *run.last) if run.longest else ()
    duels = [(c, *pair) for c in columns for pair in product(run.vaccines, opponents(run))]
    rows = []
    for (number, (fold, seed)), (column, first, second) in product(enumerate(found.runs), duels):
        ours, theirs = run.answers(first, column), run.answers(second, column)
        if ours is None or theirs is None:
            continue
        here = found.folds == number
        test = mcnemar(found.labels[here], ours[0][here], theirs[0][here])
        duel = (column.heading, first, second)
        rows.append((fold, seed, *duel, test.first_only, test.second_only, test.p, duel))
    if not rows:
        return None
    named = ["fold", "seed", "column", "first", "second", "first_only", "second_only", "p", "key"]
    told = pd.DataFrame(rows, columns=named)
    told = told.assign(
        p_holm=holm(told["p"]),
        row=[f"fold {fold}, seed {seed}" for fold, seed, *_ in rows],
    )

    def text(row: Row) -> str:
        return f"{row['first_only']} : {row['second_only']}, {_p(row['p_holm'])}"

    return pivot(
        told,
        [
            Field(
                Head(column.heading, f"{first} : {second}"), text, (column.heading, first, second)
            )
            for column, first, second in duels
        ],
        first="fold",
        row="row",
        key="key",
        title="A second look: McNemar's test for each fold",
        note="Utterances that only the first : only the second defence gets right, against the "
        "best adversarially trained model and the best other defence (by PGD mean). Exact binomial "
        f"test, two-sided, p adjusted by Holm over all {len(rows)} tests of this table; * marks "
        f"p < {LEVEL:g}. It takes utterances of one speaker as independent, which they are not: "
        "the test over speakers decides.",
        name="mcnemar",
        numbers=told.drop(columns=["key", "row"]),
    )
