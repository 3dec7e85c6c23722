"""Records side by side: one answer per utterance for each defence and attack.

Everything in a report compares *the same* utterances under different conditions. Here the long
table becomes one array per cell, in one order, and a table that would make the comparison unfair
is refused: a cell that covers only some of the utterances, or a defence whose oblivious numbers
have no adaptive ones beside them.

Defences stand as in the paper's Table 1: adversarial training first, then SSAD; after them what
the paper has not, the controls, and the undefended target last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.errors import ServaxError
from servax.evaluation.metrics import uar
from servax.evaluation.records import KNOWING, SINCE_VERSION_2, UNDEFENDED, validate
from servax.evaluation.statistics import Interval, SpeakerDraws, interval_of
from servax.report.tables import percent_sign

_KEYS = ["fold", "seed", "utterance"]
_CELL = ["defence", "attack", "strength", "knowledge"]
_STRENGTH_DIGITS = 9  # 0.003 stays one number, however it was computed


@dataclass(frozen=True, order=True)
class Condition:
    """What was done to the input, by whom."""

    attack: str
    """Name of the attack; ``none`` for clean input."""
    strength: float
    """ε of FGSM, k of PGD in a run, the radius in an audit; 0 for clean input."""
    knowledge: str
    """What the attacker knew."""
    settings: tuple[Any, ...] = field(default=(), compare=False)
    """Ball, steps, draws and space as the records tell them; the last is what was changed."""


CLEAN = Condition("none", 0.0, "none")


@dataclass(frozen=True)
class Standing:
    """What a defence keeps under some attacks."""

    uar: float
    """UAR, a share."""
    low: float
    """Lower end of the 95 % interval over speakers; ``nan`` below five speakers."""
    high: float
    """Upper end."""
    attacks: tuple[str, ...] = ()
    """Names of the attacks."""

    @property
    def told(self) -> str:
        """The UAR as a sentence has it: ``59.7 %``."""
        return percent_sign(100 * self.uar)


@dataclass(frozen=True, eq=False)
class Predictions:
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
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Where the records come from."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(sorted({seed for _, seed in self.runs}))

    @cached_property
    def defences(self) -> tuple[str, ...]:
        """Defences in the order of the tables."""
        return in_order(defence for defence, _ in self.cells)

    @cached_property
    def draws(self) -> SpeakerDraws | None:
        """The bootstrap over speakers, one for all numbers; None for too few of them."""
        return SpeakerDraws.of(self.speakers)

    def conditions(self, attack: str, knowledge: str = "oblivious") -> tuple[Condition, ...]:
        """Return the conditions of one attack that any defence was measured in, by strength."""
        found = {c for _, c in self.cells if (c.attack, c.knowledge) == (attack, knowledge)}
        return tuple(sorted(found))

    def exact(self, attack: str) -> tuple[Condition, ...]:
        """Return the white-box conditions of one attack that any defence was measured in."""
        strengths = {
            c.strength
            for defence, c in self.cells
            if defence != UNDEFENDED and c.attack == attack and c.knowledge in KNOWING
        }
        return tuple(Condition(attack, strength, "adaptive") for strength in sorted(strengths))

    @cached_property
    def adaptive_steps(self) -> int:
        """Most steps of any adaptive PGD of a run; 0 when there is none."""
        known = [c.strength for _, c in self.cells if c.attack == "pgd" and c.knowledge in KNOWING]
        return int(max(known, default=0))

    def adaptive(self, defence: str) -> Condition | None:
        """Return the strictest white-box PGD of the most steps that `defence` was measured in."""
        return self.strictest(defence, "pgd", float(self.adaptive_steps))

    def strictest(self, defence: str, attack: str, strength: float) -> Condition | None:
        """Return the white-box condition of one attack and strength that leaves the fewest right.

        ``bpda`` stands in where a defence has no useful gradient, as quantising. Nothing hides the
        undefended target from an oblivious attacker: there that attack is one, too. None where
        `defence` was not measured so.
        """
        known = [Condition(attack, strength, knowledge) for knowledge in KNOWING]
        exact = [c for c in known if (defence, c) in self.cells]
        if exact:
            return min(exact, key=lambda c: int(np.sum(self.cells[defence, c] == self.labels)))
        bare = Condition(attack, strength, "oblivious")
        return bare if defence == UNDEFENDED and (defence, bare) in self.cells else None

    def of(self, defence: str, condition: Condition | None) -> NDArray[np.intp] | None:
        """Return the (N,) predictions of a cell, or None where nothing was measured."""
        return None if condition is None else self.cells.get((defence, condition))

    def answers(
        self, defence: str, conditions: Sequence[Condition | None]
    ) -> NDArray[np.intp] | None:
        """Return (K, N) predictions, or None where one of the K cells was not measured."""
        found = [cell for c in conditions if (cell := self.of(defence, c)) is not None]
        return np.stack(found) if found and len(found) == len(conditions) else None

    def worst(
        self, defence: str, conditions: Sequence[Condition | None]
    ) -> NDArray[np.intp] | None:
        """Return the (N,) predictions of a defence that meets the worst of some conditions.

        An utterance that any of them turns wrong is of no class, −1. None without conditions.
        """
        cells = self.answers(defence, conditions)
        if cells is None:
            return None
        return np.where((cells == self.labels).all(axis=0), self.labels, -1)

    def standing(
        self, defence: str, conditions: Sequence[Condition], *, times: float = 1.0
    ) -> Standing:
        """Return what a defence keeps when each utterance meets the worst of `conditions`.

        Shares stand `times` a factor.

        Raises:
            KeyError: One of them was not measured.
        """
        kept = self.worst(defence, conditions)
        if kept is None:
            raise KeyError(defence, conditions)
        names = tuple(dict.fromkeys(c.attack for c in conditions if c != CLEAN))
        ends = self.interval(kept[None], times=times)
        return Standing(times * uar(self.labels, kept), *ends, attacks=names)

    def interval(self, cells: NDArray[np.intp], *, times: float = 1.0) -> Interval:
        """Return the 95 % interval over speakers of the mean UAR of (K, N) predictions.

        Both ends, as shares `times` a factor, are ``nan`` for too few speakers.
        """
        drawn = np.empty(0) if self.draws is None else self.draws.uar(self.labels, cells)
        return interval_of(times * drawn)


def collect(
    frame: pd.DataFrame,
    provenance: Mapping[str, Any] | None = None,
    *,
    adaptive_elsewhere: bool = False,
) -> Predictions:
    """Return the predictions of `frame` side by side.

    Args:
        frame: Records of one corpus and one target.
        provenance: Where they come from; its ``classes`` give the order of the classes, which is
            that of their names where it has none.
        adaptive_elsewhere: Whether somebody else sees to it that no oblivious result stands alone.

    Raises:
        ServaxError: More than one corpus or target, no clean undefended rows, an utterance with
            two labels, a cell that covers only some utterances, or a defence that was attacked
            obliviously and never adaptively. See also `servax.evaluation.records.validate`.
    """
    typed = validate(frame)
    corpus, target = _only(typed, "corpus"), _only(typed, "target")
    told = (provenance or {}).get("classes", ())
    classes = [str(name) for name in told] if isinstance(told, list | tuple) else []
    seen = set(typed["label"]) | set(typed["prediction"])
    names = tuple(dict.fromkeys(classes)) if seen.issubset(classes) else tuple(sorted(seen))
    position = typed.groupby(_KEYS, sort=True).ngroup().to_numpy().astype(np.intp)
    rows = typed.assign(position=position).drop_duplicates(["position", "label", "speaker"])
    rows = rows.sort_values("position")
    twice = rows.duplicated("position")
    if twice.any():
        name = rows.loc[twice, "utterance"].iloc[0]
        raise ServaxError(f"records give utterance {name!r} two labels or speakers, expected one.")
    predictions = Predictions(
        labels=_codes(rows["label"], names),
        speakers=np.array(rows["speaker"].tolist(), dtype=np.str_),
        genders=np.array(rows["gender"].tolist(), dtype=np.str_),
        folds=rows.groupby(["fold", "seed"], sort=True).ngroup().to_numpy().astype(np.intp),
        runs=tuple(sorted({(int(f), int(s)) for f, s in rows[["fold", "seed"]].to_numpy()})),
        classes=names,
        cells=_cells(typed, position, _codes(typed["prediction"], names)),
        corpus=corpus,
        target=target,
        provenance=dict(provenance or {}),
    )
    if (UNDEFENDED, CLEAN) not in predictions.cells:
        raise ServaxError(
            "records have no clean predictions of the undefended target; "
            "expected rows with defence 'undefended' and attack 'none'."
        )
    for defence in () if adaptive_elsewhere else predictions.defences:
        own = [c for d, c in predictions.cells if d == defence]
        oblivious = any(c.knowledge == "oblivious" for c in own)
        # On sound a strength is a budget, and PGD one of several attacks that know the defence.
        sound = all("waveform" in c.settings for c in own)
        known = predictions.adaptive(defence) is not None
        known |= sound and any(c.knowledge in KNOWING for c in own)
        if defence != UNDEFENDED and oblivious and not known:
            most = predictions.adaptive_steps
            raise ServaxError(
                f"{defence} has oblivious results and no adaptive ones beside them; run the "
                f"adaptive PGD{f' of {most} steps' if most else ''} on it too, oblivious figures "
                "are never printed alone."
            )
    return predictions


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
    for rows in rounded.groupby(_CELL, sort=True).indices.values():
        first = rounded.iloc[int(rows[0])]
        defence, attack, strength, knowledge = (first[name] for name in _CELL)
        if len(rows) < count:
            raise ServaxError(
                f"{defence} under {attack} of strength {strength:g} ({knowledge}) covers "
                f"{len(rows)} of {count} utterances; only cells over the same utterances can be "
                "compared, run the missing ones."
            )
        predictions = np.empty(count, dtype=np.intp)
        predictions[position[rows]] = codes[rows]
        settings = tuple(first[name] for name in SINCE_VERSION_2)
        found[str(defence), Condition(attack, float(strength), knowledge, settings)] = predictions
    return found


_TRAINED = re.compile(r"(?:adversarial-)?(similarity|vanilla|smoothed)-(\d+(?:\.\d+)?(?:e-?\d+)?)")
TRAINED = ("similarity", "vanilla", "pgd-at", "trades", "smoothed")
"""Families of models that take the target's place."""
_ORDER = (*TRAINED, "ssad", "control", UNDEFENDED)


def family(defence: str) -> str:
    """Return the family of a defence.

    One of `TRAINED`, ``ssad`` and ``undefended``; whatever is none of these is a ``control``:
    noise, filters, quantising.
    """
    if trained := _TRAINED.fullmatch(defence):
        return trained[1]
    if defence == "ssad" or defence.startswith("ssad-"):
        return "ssad"
    return defence if defence in ("pgd-at", "trades", UNDEFENDED) else "control"


def in_order(defences: Iterable[str]) -> tuple[str, ...]:
    """Return `defences`, each once, in the order of the tables."""

    def key(defence: str) -> tuple[int, int, float, str]:
        trained = _TRAINED.fullmatch(defence)
        first = {"ssad": 0, "ssad-residual": 1}.get(defence, 2)
        epsilon = float(trained[2]) if trained else 0.0
        return _ORDER.index(family(defence)), first, epsilon, defence

    return tuple(sorted(set(defences), key=key))
