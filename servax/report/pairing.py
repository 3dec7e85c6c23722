"""Two runs side by side: may they be compared, and what do both hold?

The same corpus, label scheme, classes and held-out speakers in each fold; anything else (the
target, the scale, a training) may differ, since that is what one compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from servax.errors import ServaxError
from servax.evaluation.records import Records
from servax.evaluation.statistics import Interval
from servax.report import tables
from servax.report.content import class_names
from servax.report.order import in_order
from servax.report.outcomes import CLEAN, Condition, Outcomes, collect
from servax.report.resampling import SpeakerDraws, interval_of

__all__ = ["Difference", "Run", "adaptive_steps", "differences", "only_one", "pair"]

_ADAPTIVE = "adaptive PGD"


@dataclass(frozen=True, eq=False)
class Run:
    """One side of a comparison."""

    name: str
    """How it is called in tables."""
    outcomes: Outcomes
    """Its predictions."""
    provenance: Mapping[str, Any]
    """Where they come from."""
    held_out: Mapping[int, frozenset[str]]
    """Fold → its speakers."""
    spoken: frozenset[tuple[str, str, str]]
    """Utterance, speaker and label of all rows."""


class Difference(NamedTuple):
    """One measure of one defence in both runs."""

    defence: str
    """Name of the defence."""
    measure: str
    """``clean``, ``FGSM mean``, ``PGD mean`` or ``adaptive PGD``."""
    a: float
    """UAR in A, in percent; ``nan`` where not measured."""
    b: float
    """UAR in B, in percent; ``nan`` where not measured."""
    difference: float
    """B − A in points; ``nan`` where the two are not the same measurement."""
    interval: Interval
    """95 % of the difference over speakers, paired; ``nan`` where utterances differ."""


def pair(a: Records, b: Records, *, names: tuple[str, str]) -> tuple[Run, Run]:
    """Return two runs that can be compared.

    Raises:
        ServaxError: They differ in corpus, label scheme, classes, held-out speakers or labels; or
            one of them has no report of its own (`servax.report.outcomes.collect`).
    """
    first, second = (_run(r, name) for r, name in zip((a, b), names, strict=True))
    _same("corpus", first, second, first.outcomes.corpus, second.outcomes.corpus)
    _same("label scheme", first, second, *(str(r.provenance.get("scheme", "")) for r in (a, b)))
    _same("classes", first, second, *(_listed(sorted(r.outcomes.classes)) for r in (first, second)))
    _same_folds(first, second)
    labels = {(utterance, label) for utterance, _, label in first.spoken | second.spoken}
    twice = pd.Series([utterance for utterance, _ in labels]).value_counts()
    if not twice.empty and twice.iloc[0] > 1:
        raise _refusal(first, second, f"utterance {twice.index[0]} has another label in each")
    return first, second


def _run(part: Records, name: str) -> Run:
    try:
        outcomes = collect(part.frame, classes=class_names(part.provenance))
    except ServaxError as error:
        raise ServaxError(f"{name}: {error}") from error
    rows = part.frame.drop_duplicates(["fold", "utterance", "speaker", "label"])
    held_out = {
        int(str(fold)): frozenset(map(str, speakers))
        for fold, speakers in rows.groupby("fold")["speaker"]
    }
    spoken = zip(rows["utterance"], rows["speaker"], rows["label"], strict=True)
    return Run(name, outcomes, part.provenance, held_out, frozenset(spoken))


def _refusal(a: Run, b: Run, what: str) -> ServaxError:
    return ServaxError(
        f"{a.name} and {b.name} cannot be compared: {what}; "
        "compare runs over the same utterances and classes."
    )


def _same(what: str, a: Run, b: Run, here: str, there: str) -> None:
    if here != there:
        raise _refusal(a, b, f"{what} is {here or 'not recorded'} and {there or 'not recorded'}")


def _same_folds(a: Run, b: Run) -> None:
    if a.held_out == b.held_out:
        _same_training(a, b)
        return
    if set(a.held_out) != set(b.held_out):
        told = [f"{_folds(run.held_out)} in {run.name}" for run in (a, b)]
        common = sorted(set(a.held_out) & set(b.held_out))
        advice = f" (both hold fold {common[0]}: give its Parquet file alone)" if common else ""
        raise _refusal(a, b, f"they hold {told[0]} and {told[1]}{advice}")
    fold = next(fold for fold in sorted(a.held_out) if a.held_out[fold] != b.held_out[fold])
    told = [_listed(sorted(run.held_out[fold])) for run in (a, b)]
    raise _refusal(a, b, f"fold {fold} holds out the speakers {told[0]} and {told[1]}")


def _same_training(a: Run, b: Run) -> None:
    """Refuse folds that hold out the same speakers and train on others, where hashes tell."""
    here, there = (
        {part.strip() for part in str(run.provenance.get("fold_hash", "")).split(",")} - {""}
        for run in (a, b)
    )
    # One file of a run carries the hashes of all its folds.
    if here and there and not (here <= there or there <= here):
        raise _refusal(
            a,
            b,
            f"their folds train on other speakers (fold hash {_listed(sorted(here))} and "
            f"{_listed(sorted(there))})",
        )


def _folds(held_out: Mapping[int, object]) -> str:
    numbers = sorted(held_out)
    return f"fold{'s' if len(numbers) > 1 else ''} {_listed(list(map(str, numbers)))}"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def only_one(a: Run, b: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the defences that only A and that only B holds."""
    here, there = set(a.outcomes.defences), set(b.outcomes.defences)
    return in_order(here - there), in_order(there - here)


def adaptive_steps(a: Run, b: Run) -> tuple[int, int]:
    """Return the steps of the adaptive PGD of each: the most that both were measured with.

    Where they share none, each run's own most; these are not the same measurement.
    """
    common = set(a.outcomes.exact_strengths("pgd")) & set(b.outcomes.exact_strengths("pgd"))
    if common:
        return int(max(common)), int(max(common))
    return a.outcomes.adaptive_steps, b.outcomes.adaptive_steps


def differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """Return every measure of every defence that both runs hold, in the order of the tables.

    Means are over the intensities of the paper's grid that both runs hold, or over all that both
    hold where neither is on it.
    """
    both = in_order(set(a.outcomes.defences) & set(b.outcomes.defences))
    drawn = [SpeakerDraws.of(run.outcomes.speakers) for run in (a, b)]
    draws = tuple(each for each in drawn if each is not None) if a.spoken == b.spoken else ()
    columns = _columns(a, b)
    found = []
    for defence in both:
        for measure, (here, there) in columns.items():
            if measure == _ADAPTIVE:
                ours = (a.outcomes.strictest(defence, "pgd", here[0].strength),)
                theirs = (b.outcomes.strictest(defence, "pgd", there[0].strength),)
                alike = here == there
                found.append(_difference(a, b, defence, measure, ours, theirs, draws, alike=alike))
            else:
                found.append(_difference(a, b, defence, measure, here, there, draws, alike=True))
    return tuple(found)


_Conditions = tuple[Condition | None, ...]


def _columns(a: Run, b: Run) -> dict[str, tuple[tuple[Condition, ...], tuple[Condition, ...]]]:
    """Return measure → the conditions in A and in B."""
    columns: dict[str, tuple[tuple[Condition, ...], tuple[Condition, ...]]]
    columns = {"clean": ((CLEAN,), (CLEAN,))}
    for attack, wanted in (("fgsm", tables.EPSILONS), ("pgd", tables.STEPS)):
        theirs = set(b.outcomes.conditions(attack))
        common = [c for c in a.outcomes.conditions(attack) if c in theirs]
        shown = tables.shown(common, wanted)
        if shown:
            columns[f"{attack.upper()} mean"] = (shown, shown)
    steps = adaptive_steps(a, b)
    if all(steps):
        here, there = (Condition("pgd", float(k), "adaptive") for k in steps)
        columns[_ADAPTIVE] = ((here,), (there,))
    return columns


def _difference(
    a: Run,
    b: Run,
    defence: str,
    measure: str,
    here: _Conditions,
    there: _Conditions,
    draws: tuple[SpeakerDraws, ...],
    *,
    alike: bool,
) -> Difference:
    sides = ((a.outcomes, here), (b.outcomes, there))
    cells = [tables.predictions_of(outcomes, defence, wanted) for outcomes, wanted in sides]
    uars = [tables.percent(outcomes, defence, wanted) for outcomes, wanted in sides]
    nothing = Interval(float("nan"), float("nan"))
    if not alike or cells[0] is None or cells[1] is None:
        return Difference(defence, measure, uars[0], uars[1], float("nan"), nothing)
    interval = nothing
    if draws:
        drawn = [
            draw.uars(outcomes.labels, cell)
            for draw, (outcomes, _), cell in zip(draws, sides, cells, strict=True)
            if cell is not None
        ]
        interval = interval_of(drawn[1] - drawn[0])
    return Difference(defence, measure, uars[0], uars[1], uars[1] - uars[0], interval)
