"""Records side by side: one prediction per utterance for each defence and attack condition.

Everything in a report compares *the same* utterances under different conditions. Here the long
table becomes one array per cell, in one order, and a table that would make the comparison unfair
is refused: a cell that covers only some of the utterances, or a defence whose oblivious numbers
have no adaptive ones beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.errors import ServaxError
from servax.evaluation.records import validate
from servax.report.order import UNDEFENDED, in_order

__all__ = ["CLEAN", "UNDEFENDED", "Condition", "Outcomes", "align", "collect"]

_KEYS = ["fold", "seed", "utterance"]
_EXACT = ("adaptive", "bpda")
_STRENGTH_DIGITS = 9  # 0.003 stays one number, however it was computed


class Condition(NamedTuple):
    """What was done to the input, by whom."""

    attack: str
    """Name of the attack; ``none`` for clean input."""
    strength: float
    """ε of FGSM, k of PGD, 0 for clean input."""
    knowledge: str
    """What the attacker knew."""


CLEAN = Condition("none", 0.0, "none")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Predictions of N utterances (one per utterance, fold and seed) in every recorded cell."""

    labels: NDArray[np.intp]
    """(N,) number of the true class in `classes`."""
    speakers: NDArray[np.str_]
    """(N,) speaker."""
    genders: NDArray[np.str_]
    """(N,) gender of the speaker, ``unknown`` where the corpus does not say."""
    folds: NDArray[np.intp]
    """(N,) number of the run: each pair of fold and seed is one."""
    runs: tuple[tuple[int, int], ...]
    """Fold and seed of each run, by its number."""
    classes: tuple[str, ...]
    """C class names, in the order of tables and pictures."""
    cells: Mapping[tuple[str, Condition], NDArray[np.intp]] = field(repr=False)
    """(defence, condition) → (N,) number of the predicted class."""
    corpus: str
    """Name of the corpus."""
    target: str
    """Name of the recogniser under attack."""
    seeds: tuple[int, ...]
    """Seeds of the runs."""

    @property
    def defences(self) -> tuple[str, ...]:
        """Defences in the order of the tables (`servax.report.order`)."""
        return in_order(defence for defence, _ in self.cells)

    def conditions(self, attack: str, knowledge: str = "oblivious") -> tuple[Condition, ...]:
        """Return the conditions of one attack that any defence was measured in, by strength."""
        found = {c for _, c in self.cells if (c.attack, c.knowledge) == (attack, knowledge)}
        return tuple(sorted(found))

    def adaptive(self, defence: str) -> Condition | None:
        """Return the strictest white-box PGD that `defence` was measured in.

        That is the one with the most steps and, of equals, the one that leaves the fewest right
        (``bpda`` stands in where a defence has no useful gradient, as quantising). Nothing hides
        the undefended target from an oblivious attacker: there PGD of that many steps is it.
        """
        return self.strictest(defence, "pgd", float(self.adaptive_steps))

    def strictest(self, defence: str, attack: str, strength: float) -> Condition | None:
        """Return the white-box condition of one attack and strength that leaves the fewest right.

        None where `defence` was not measured so. For the undefended target the oblivious attack
        is one, too.
        """
        known = [Condition(attack, strength, knowledge) for knowledge in _EXACT]
        exact = [c for c in known if (defence, c) in self.cells]
        if exact:
            return min(exact, key=lambda c: int(np.sum(self.cells[defence, c] == self.labels)))
        bare = Condition(attack, strength, "oblivious")
        return bare if defence == UNDEFENDED and (defence, bare) in self.cells else None

    def exact_strengths(self, attack: str) -> tuple[float, ...]:
        """Return the strengths of the white-box attacks that any defence was measured in."""
        found = {
            c.strength
            for defence, c in self.cells
            if defence != UNDEFENDED and c.attack == attack and c.knowledge in _EXACT
        }
        return tuple(sorted(found))

    @property
    def adaptive_steps(self) -> int:
        """Most steps of any adaptive PGD in the records; 0 when there is none."""
        steps = [c.strength for _, c in self.cells if c.attack == "pgd" and c.knowledge in _EXACT]
        return int(max(steps, default=0))

    def predictions(self, defence: str, condition: Condition | None) -> NDArray[np.intp] | None:
        """Return the (N,) predictions of a cell, or None where nothing was measured."""
        return None if condition is None else self.cells.get((defence, condition))


def collect(frame: pd.DataFrame, *, classes: Sequence[str] = ()) -> Outcomes:
    """Return the predictions of `frame` side by side.

    Args:
        frame: records of one corpus and one target.
        classes: class names in the order to show them; sorted names when left out.

    Raises:
        ServaxError: more than one corpus or target, no clean undefended rows, an utterance with
            two labels, a cell that covers only some utterances, or a defence that was attacked
            obliviously and never adaptively. See also `servax.evaluation.records.validate`.
    """
    outcomes = align(frame, classes=classes)
    _check(outcomes)
    return outcomes


def align(frame: pd.DataFrame, *, classes: Sequence[str] = ()) -> Outcomes:
    """Return what `collect` does, of a table in which no cell has to stand beside another.

    Raises:
        ServaxError: as `collect`, but for oblivious results without adaptive ones.
    """
    typed = validate(frame)
    corpus, target = _only(typed, "corpus"), _only(typed, "target")
    seen = set(typed["label"]) | set(typed["prediction"])
    names = tuple(dict.fromkeys(classes)) if seen.issubset(classes) else tuple(sorted(seen))
    position = typed.groupby(_KEYS, sort=True).ngroup().to_numpy().astype(np.intp)
    rows = typed.assign(position=position).drop_duplicates(["position", "label", "speaker"])
    rows = rows.sort_values("position")
    twice = rows.duplicated("position")
    if twice.any():
        name = rows.loc[twice, "utterance"].iloc[0]
        raise ServaxError(f"records give utterance {name!r} two labels or speakers, expected one.")
    outcomes = Outcomes(
        labels=_codes(rows["label"], names),
        speakers=np.array(rows["speaker"].tolist(), dtype=np.str_),
        genders=np.array(rows["gender"].tolist(), dtype=np.str_),
        folds=rows.groupby(["fold", "seed"], sort=True).ngroup().to_numpy().astype(np.intp),
        runs=tuple(sorted({(int(f), int(s)) for f, s in rows[["fold", "seed"]].to_numpy()})),
        classes=names,
        cells=_cells(typed, position, _codes(typed["prediction"], names)),
        corpus=corpus,
        target=target,
        seeds=tuple(sorted({int(seed) for seed in typed["seed"]})),
    )
    if (UNDEFENDED, CLEAN) not in outcomes.cells:
        raise ServaxError(
            "records have no clean predictions of the undefended target; "
            "expected rows with defence 'undefended' and attack 'none'."
        )
    return outcomes


def _only(frame: pd.DataFrame, column: str) -> str:
    values = sorted(set(frame[column]))
    if len(values) > 1:
        raise ServaxError(
            f"records hold {len(values)} values of {column} ({', '.join(values)}); "
            "a report tells of one, select it first."
        )
    return str(values[0])


def _codes(column: pd.Series[str], names: Sequence[str]) -> NDArray[np.intp]:
    return pd.Categorical(column, categories=list(names)).codes.astype(np.intp)


def _cells(
    frame: pd.DataFrame, position: NDArray[np.intp], codes: NDArray[np.intp]
) -> dict[tuple[str, Condition], NDArray[np.intp]]:
    """Return (defence, condition) → predictions, each at the `position` of its utterance."""
    count = int(position.max()) + 1
    rounded = frame.assign(strength=frame["strength"].round(_STRENGTH_DIGITS))
    found = {}
    groups = rounded.groupby(["defence", "attack", "strength", "knowledge"], sort=True)
    for cell, rows in groups.indices.items():
        defence, attack, strength, knowledge = cast("tuple[str, str, float, str]", cell)
        if len(rows) < count:
            raise ServaxError(
                f"{defence} under {attack} of strength {strength:g} ({knowledge}) covers "
                f"{len(rows)} of {count} utterances; only cells over the same utterances can be "
                "compared, run the missing ones."
            )
        predictions = np.empty(count, dtype=np.intp)
        predictions[position[rows]] = codes[rows]
        found[str(defence), Condition(attack, float(strength), knowledge)] = predictions
    return found


def _check(outcomes: Outcomes) -> None:
    for defence in outcomes.defences:
        oblivious = any(d == defence and c.knowledge == "oblivious" for d, c in outcomes.cells)
        if defence != UNDEFENDED and oblivious and outcomes.adaptive(defence) is None:
            steps = f" of {outcomes.adaptive_steps} steps" if outcomes.adaptive_steps else ""
            raise ServaxError(
                f"{defence} has oblivious results and no adaptive ones beside them; run the "
                f"adaptive PGD{steps} on it too, oblivious figures are never printed alone."
            )
