"""All numbers of a run as tidy frames: UAR, protection efficacy, recovery rate, harm, by group.

UAR stands in percent and is pooled: the predictions of all folds count as one test. The others are
shares. Spreads are population standard deviations, as the paper's (its σ of 1.86 and 2.14 for the
UAR of SSAD follow from its Table 1 that way and no other).

A model that takes the target's place (adversarial training) is measured as a purifier is: who was
right or wrong on clean input, and R_no, are the bare target's; R_prot and recovery are what the
other model says of the same inputs, made with gradients of the bare target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.metrics import recall_by_class, uar_by_group
from servax.evaluation.statistics import interval_of, over_folds
from servax.report import paper
from servax.report.predictions import (
    CLEAN,
    TRAINED,
    UNDEFENDED,
    Condition,
    Predictions,
    collect,
    family,
)

__all__ = ["PROTECTION", "Column", "Measures", "measures", "on_grid"]

PROTECTION = ("PE", "RR")
_NAN = float("nan")
_Rows = NDArray[np.bool_] | slice
_EVERY = slice(None)


class Column(NamedTuple):
    """What a column of a table is measured under; a mean has several conditions."""

    heading: str
    conditions: tuple[Condition, ...]
    strictest: bool = False
    """Whether the strictest attacker who knows a defence stands for the one that is named."""
    mean: bool = False
    """Whether the entry is a mean over intensities; of one, it is still headed so."""

    @property
    def attack(self) -> str:
        """Return ``none``, ``fgsm`` or ``pgd``."""
        return self.conditions[0].attack

    def of(self, found: Predictions, defence: str) -> tuple[Condition | None, ...]:
        """Return the condition of each intensity; None where an attack was not measured."""
        if not self.strictest:
            return self.conditions
        return tuple(found.strictest(defence, c.attack, c.strength) for c in self.conditions)

    def in_paper(self, defence: str) -> tuple[float, float]:
        """Return the paper's UAR and its population sd over intensities, ``nan`` where none is."""
        if self.attack == "none":
            return (paper.CLEAN_UAR if defence == UNDEFENDED else _NAN), _NAN
        if self.strictest:
            return _NAN, _NAN
        return paper.uar(defence, self.attack, [c.strength for c in self.conditions])


def on_grid(attack: str, present: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions of the paper's grid, or all where the run used none of it."""
    found = tuple(c for c in present if np.isclose(c.strength, paper.GRID[attack]).any())
    return found or tuple(present)


def named(condition: Condition) -> str:
    """Return ``FGSM .003`` or ``PGD 15``, as the paper heads its columns."""
    return f"{condition.attack.upper()} {condition.strength:g}".replace(" 0.", " .")


class Measures:
    """The numbers of one run, each computed once, from its predictions and nothing else."""

    def __init__(self, found: Predictions) -> None:
        self.found = found
        self.defences = found.defences

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the paper's Table 1, with the strictest adaptive PGD as the last."""
        return (
            Column("clean", (CLEAN,)),
            *self._block(self.found.conditions, strictest=False),
            *self.last,
        )

    @cached_property
    def known_columns(self) -> tuple[Column, ...]:
        """The same columns for the attacker who knows the defence.

        None when the records hold nothing but the last adaptive PGD, which stands in `columns`.
        """
        last = tuple(c for column in self.last for c in column.conditions)

        def present(attack: str) -> tuple[Condition, ...]:
            exact = self.found.exact(attack)
            return () if exact == last else exact

        block = self._block(present, strictest=True)
        return (Column("clean", (CLEAN,)), *block, *self.last) if block else ()

    def _block(
        self, present: Callable[[str], Sequence[Condition]], *, strictest: bool
    ) -> list[Column]:
        columns = []
        for attack in ("fgsm", "pgd"):
            shown = on_grid(attack, present(attack))
            columns += [Column(named(c), (c,), strictest) for c in shown]
            if shown:
                columns.append(Column(f"{attack.upper()} mean", shown, strictest, mean=True))
        return columns

    @cached_property
    def last(self) -> tuple[Column, ...]:
        """The column of the strictest adaptive PGD, if there is any."""
        steps = self.found.adaptive_steps
        strictest = Condition("pgd", float(steps), "adaptive")
        return (Column(f"adaptive PGD-{steps}", (strictest,), strictest=True),) if steps else ()

    @cached_property
    def main(self) -> tuple[Column, ...]:
        """The columns that sum up a defence: clean, FGSM mean, PGD mean, and the adaptive PGD."""
        return tuple(c for c in self.columns if c.mean or c.attack == "none" or c in self.last)

    @cached_property
    def longest(self) -> Column | None:
        """The oblivious PGD with the most steps in the grid (the paper's 15), if any."""
        pgd = [c for c in self.columns if c.attack == "pgd" and not (c.mean or c.strictest)]
        return pgd[-1] if pgd else None

    def answers(self, defence: str, column: Column) -> NDArray[np.intp] | None:
        """Return the (K, N) predictions behind an entry, None where one of the K has none."""
        return self.found.answers(defence, column.of(self.found, defence))

    def uar(self, defence: str, heading: str) -> float:
        """Return an entry of Table 1, ``nan`` where there is no such column or it has a gap."""
        return self._uars.get((defence, heading), _NAN)

    @cached_property
    def _uars(self) -> dict[tuple[str, str], float]:
        found = {}
        for defence in self.defences:
            for column in self.columns:
                if (cells := self.answers(defence, column)) is not None:
                    found[defence, column.heading] = percent(self.found.labels, cells)
        return found

    @cached_property
    def table(self) -> pd.DataFrame:
        """All that is known of each entry of Table 1."""
        return measures(self.found, self.columns)

    def by(self, group: str, columns: Sequence[Column]) -> pd.DataFrame:
        """Return UAR by ``all``, ``run``, ``seed``, ``speaker``, ``gender``, recall by ``emotion``.

        Columns ``defence``, ``column``, ``group`` and ``percent``; a run is its fold and seed. A
        class that a group does not have does not count.
        """
        rows = []
        for defence in self.defences:
            for column in columns:
                cells = self.answers(defence, column)
                told = [] if cells is None else _by_group(self.found, group, cells)
                rows += [(defence, column.heading, name, percent) for name, percent in told]
        return pd.DataFrame(rows, columns=["defence", "column", "group", "percent"])

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """UAR, folds and interval of every cell that was measured, one row each (tidy)."""
        rows = []
        for defence in self.defences:
            for c in sorted(c for d, c in self.found.cells if d == defence):
                entry = _entry(self.found, self.found.answers(defence, [c]))
                del entry["sd_over_intensities_percent"]
                cell = {"attack": c.attack, "strength": c.strength, "knowledge": c.knowledge}
                rows.append({"defence": defence, **cell, **entry})
        return pd.DataFrame(rows)

    @cached_property
    def other_columns(self) -> tuple[Column, ...]:
        """Every measured condition that no table shows, so that nothing stays unsaid."""
        found = self.found
        shown = {*found.conditions("pgd")}
        shown |= {c for column in self.columns if not column.strictest for c in column.conditions}
        told = {
            (defence, c)
            for defence in self.defences
            for column in (*self.known_columns, *self.last)
            for c in column.of(found, defence)
        }
        rest = {cell[1] for cell in found.cells if cell not in told} - shown
        return tuple(
            Column(f"{c.attack} {c.strength:g}, {c.knowledge}", (c,)) for c in sorted(rest)
        )

    @cached_property
    def protection(self) -> pd.DataFrame:
        """PE and RR against k of oblivious PGD, one row per defence, k and measure (tidy).

        Columns ``defence``, ``k``, ``measure`` (``PE`` | ``RR``), ``value`` (pooled over folds),
        ``mean_over_folds`` and ``sd_over_folds`` (population, over the folds in which it is
        defined), ``low`` and ``high`` (95 % bootstrap over speakers).
        """
        found = self.found
        runs = [found.folds == run for run in range(len(found.runs))]
        rows: list[dict[str, Any]] = []
        for defence in (name for name in self.defences if name != UNDEFENDED):
            for c in found.conditions("pgd"):
                if found.of(defence, c) is None:
                    continue
                pooled = _protected(found, defence, c, c)
                apart = np.array([_protected(found, defence, c, c, run) for run in runs])
                drawn = _drawn(found, defence, c)
                for i, name in enumerate(PROTECTION):
                    told, band = over_folds(apart[:, i]), interval_of(drawn[i])
                    rows.append(
                        {
                            "defence": defence,
                            "k": int(c.strength),
                            "measure": name,
                            "value": pooled[i],
                            "mean_over_folds": told.mean,
                            "sd_over_folds": told.sd,
                            "low": band.low,
                            "high": band.high,
                        }
                    )
        columns = ("defence", "k", "measure", "value", "mean_over_folds", "sd_over_folds")
        return pd.DataFrame(rows, columns=[*columns, "low", "high"])

    @cached_property
    def worth(self) -> pd.DataFrame:
        """PE and RR (mean and sd over k, adaptive) and the harm rate, one row per defence."""
        found, rows, told = self.found, [], self.protection
        for defence in (name for name in self.defences if name != UNDEFENDED):
            bare, own = found.adaptive(UNDEFENDED), found.adaptive(defence)
            known = dict(zip(PROTECTION, _protected(found, defence, bare, own), strict=True))
            row: dict[str, Any] = {"defence": defence}
            for name in PROTECTION:
                mine = told[(told["defence"] == defence) & (told["measure"] == name)]
                values = mine["value"].to_numpy(dtype=np.float64)
                # A mean over some of the steps would be another measure.
                whole = len(values) == len(found.conditions("pgd")) > 0
                row[f"{name} mean"] = float(values.mean()) if whole else _NAN
                row[f"{name} sd"] = float(values.std()) if whole else _NAN
                row[f"{name} adaptive"] = known[name]
            row["harm"] = _NAN
            if (alone := found.of(defence, CLEAN)) is not None:
                clean = found.cells[UNDEFENDED, CLEAN]
                row["harm"] = metrics.harm_rate(found.labels, clean, alone)
            rows.append(row)
        return pd.DataFrame(rows)

    def over_steps(self, defence: str) -> dict[str, tuple[float, tuple[float, float] | None]]:
        """Return ``PE`` and ``RR`` as means over every k of oblivious PGD, with their intervals.

        A mean has no interval where there are too few speakers.
        """
        found, told = self.found, {}
        conditions = found.conditions("pgd")
        pairs = [_protected(found, defence, c, c) for c in conditions]
        drawn = [_drawn(found, defence, c) for c in conditions] if found.draws else []
        for i, name in enumerate(PROTECTION):
            band = interval_of(np.mean([each[i] for each in drawn], axis=0)) if drawn else None
            ends = (band.low, band.high) if band else None
            told[name] = float(np.mean([pair[i] for pair in pairs])), ends
        return told

    def best_of(self, *families: str) -> str | None:
        """Return the defence of these families with the best PGD mean, then FGSM mean, if any."""

        def strength(name: str) -> list[float]:
            means = [self.uar(name, heading) for heading in ("PGD mean", "FGSM mean")]
            # What was not measured is not the best.
            return [-np.inf if np.isnan(mean) else mean for mean in means]

        names = [name for name in self.defences if family(name) in families]
        return max(names, key=strength) if names else None

    @property
    def vaccines(self) -> tuple[str, ...]:
        """Defences that are SSAD in one form or another."""
        return tuple(name for name in self.defences if family(name) == "ssad")

    @property
    def published(self) -> dict[str, tuple[str, dict[str, tuple[float, float]]]]:
        """Our defence → the paper's name and averages of its counterpart in Figure 2."""
        best = self.best_of("similarity")
        found = {"ssad": ("SSAD", paper.FIGURE_2["ssad"])} if "ssad" in self.defences else {}
        return found | ({best: ("Adv.", paper.FIGURE_2["adversarial-similarity"])} if best else {})

    def drawn(self, *groups: str, few: int = 8, ssad: int = 4) -> tuple[str, ...]:
        """Return the defences that a picture shows: twenty lines in one panel cannot be read.

        All while they are few. Otherwise some forms of SSAD and the best of each group of
        families.
        """
        if len(self.defences) <= few:
            return self.defences
        wanted = {*self.vaccines[:ssad], *(self.best_of(group) for group in groups)}
        return tuple(name for name in self.defences if name in wanted)

    @property
    def drawn_protection(self) -> tuple[str, ...]:
        """The defences of Figure 2: SSAD and the adversarially trained models, as the paper."""
        trained = self.best_of(*TRAINED) is not None
        groups = ("similarity", "pgd-at", "trades") if trained else ("control",)
        defences = tuple(name for name in self.drawn(*groups) if name != UNDEFENDED)
        return defences or tuple(name for name in self.defences if name != UNDEFENDED)[:8]


def measures(
    records: Predictions | pd.DataFrame, columns: Sequence[Column] | None = None
) -> pd.DataFrame:
    """Return all that is known of each entry, one row per defence and column (tidy).

    Args:
        records: Records, or their predictions side by side.
        columns: What is measured; those of Table 1 when left out.

    Returns:
        Columns ``defence``, ``column`` (heading), ``attack``, ``strength`` (``nan`` of a mean),
        ``knowledge``, ``intensities`` (K), ``uar_percent``, ``sd_over_intensities_percent``
        (population), ``mean_over_folds_percent``, ``sd_over_folds_percent`` (population),
        ``low_percent`` and ``high_percent`` (95 % over speakers), ``over_clean`` (share of the
        clean UAR of the undefended target), and the paper's own ``paper_uar_percent``,
        ``paper_sd_over_intensities_percent`` and ``paper_over_clean``. What was not measured is
        ``nan``.
    """
    found = records if isinstance(records, Predictions) else collect(records)
    rows = []
    for defence in found.defences:
        for column in Measures(found).columns if columns is None else columns:
            conditions = column.of(found, defence)
            known = [c.knowledge for c in conditions if c is not None]
            several = len(column.conditions) > 1
            published, spread = column.in_paper(defence)
            rows.append(
                {
                    "defence": defence,
                    "column": column.heading,
                    "attack": column.attack,
                    "strength": _NAN if several else column.conditions[0].strength,
                    "knowledge": "/".join(dict.fromkeys(known)),
                    "intensities": len(column.conditions),
                    **_entry(found, found.answers(defence, conditions)),
                    "paper_uar_percent": published,
                    "paper_sd_over_intensities_percent": spread,
                    "paper_over_clean": published / paper.CLEAN_UAR,
                }
            )
    return pd.DataFrame(rows)


def percent(labels: NDArray[np.intp], cells: NDArray[np.intp]) -> float:
    """Return the mean UAR of (K, N) predictions in percent."""
    return 100 * float(np.mean([metrics.uar(labels, cell) for cell in cells]))


def _by_group(found: Predictions, group: str, cells: NDArray[np.intp]) -> list[tuple[Any, float]]:
    """Return the name of each group and the percentage of its (K, N) predictions."""
    if group == "all":
        return [("all", percent(found.labels, cells))]
    names: Sequence[Any] = found.runs if group == "run" else found.seeds
    of = found.folds
    if group == "seed":
        of = np.array([found.seeds.index(seed) for _, seed in found.runs])[of]
    elif group == "emotion":
        recalls = recall_by_class(found.labels, cells)
        return [(found.classes[int(code)], 100 * recall) for code, recall in recalls.items()]
    elif group != "run":
        groups = found.speakers if group == "speaker" else found.genders
        return [(n, 100 * u) for n, u in uar_by_group(found.labels, cells, groups).items()]
    return [
        (name, percent(found.labels[of == i], cells[:, of == i])) for i, name in enumerate(names)
    ]


def _entry(found: Predictions, cells: NDArray[np.intp] | None) -> dict[str, Any]:
    """Return the numbers of one entry from its (K, N) predictions."""
    names = ("uar", "sd_over_intensities", "mean_over_folds", "sd_over_folds", "low", "high")
    entry = dict.fromkeys((f"{name}_percent" for name in names), _NAN)
    entry["over_clean"] = _NAN
    if cells is None:
        return entry
    clean = 100 * metrics.uar(found.labels, found.cells[UNDEFENDED, CLEAN])
    uars = [100 * metrics.uar(found.labels, cell) for cell in cells]
    told = over_folds([percent for _, percent in _by_group(found, "run", cells)])
    entry["uar_percent"] = float(np.mean(uars))
    entry["sd_over_intensities_percent"] = float(np.std(uars)) if len(uars) > 1 else _NAN
    entry["mean_over_folds_percent"], entry["sd_over_folds_percent"] = told.mean, told.sd
    entry["over_clean"] = entry["uar_percent"] / clean if clean else _NAN
    if found.draws is not None:
        interval = interval_of(100 * found.draws.uar(found.labels, cells))
        entry["low_percent"], entry["high_percent"] = interval.low, interval.high
    return entry


def _protected(
    found: Predictions,
    defence: str,
    bare: Condition | None,
    defended: Condition | None,
    rows: _Rows = _EVERY,
) -> tuple[float, float]:
    """Return PE and RR; `bare` attacks the undefended target, `defended` the defended one."""
    labels, clean = found.labels[rows], found.cells[UNDEFENDED, CLEAN][rows]
    attacked, protected = found.of(UNDEFENDED, bare), found.of(defence, defended)
    if protected is None:
        return _NAN, _NAN
    recovery = metrics.recovery_rate(labels, clean, protected[rows])
    if attacked is None:
        return _NAN, recovery
    efficacy = metrics.protection_efficacy(labels, clean, attacked[rows], protected[rows])
    return efficacy, recovery


def _drawn(
    found: Predictions, defence: str, condition: Condition
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return PE and RR of each draw of speakers; empty without draws."""
    attacked, protected = found.of(UNDEFENDED, condition), found.of(defence, condition)
    draws = found.draws
    if draws is None or protected is None:
        return np.empty(0), np.empty(0)
    right = found.cells[UNDEFENDED, CLEAN] == found.labels
    recovered = _ratio(draws.counts(~right & (protected == found.labels)), draws.counts(~right))
    if attacked is None:
        return np.empty(0), recovered
    # The number of clean-correct utterances cancels: R_prot / R_no is a ratio of counts.
    left = draws.counts(right & (protected != found.labels))
    risk = draws.counts(right & (attacked != found.labels))
    return 1 - _ratio(left, risk), recovered


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
