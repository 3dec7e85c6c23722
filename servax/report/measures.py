"""All numbers of a run as tidy frames: UAR, protection efficacy, recovery rate, harm, by group.

UAR stands in percent and is pooled: the predictions of all folds count as one test. The others are
shares. Spreads are population standard deviations, as the paper's (its σ of 1.86 and 2.14 for the
UAR of SSAD follow from its Table 1 that way and no other).

A model that takes the target's place (adversarial training) is measured as a purifier is: who was
right or wrong on clean input, and R_no, are the bare target's; R_prot and recovery are what the
other model says of the same inputs, made with gradients of the bare target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.evaluation import metrics
from servax.evaluation.metrics import recall_by_class, uar_by_group
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.statistics import Interval, interval_of, over_folds
from servax.report import paper
from servax.report.predictions import (
    CLEAN,
    TRAINED,
    Condition,
    Predictions,
    family,
)

PROTECTION = ("PE", "RR")
BIN_SD_DB = 12.0
"""Standard deviation of a Mel bin, in dB, at which the paper's ε are those of [18]."""
_NAN = float("nan")
_EVERY = slice(None)
_ENTRY = {
    f"{name}_percent": _NAN
    for name in ("uar", "sd_over_intensities", "mean_over_folds", "sd_over_folds", "low", "high")
} | {"over_clean": _NAN}
"""The numbers of an entry that was not measured."""


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


CLEAN_COLUMN = Column("clean", (CLEAN,))


def on_grid(attack: str, present: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions of the paper's grid, or all where the run used none of it."""
    found = tuple(c for c in present if np.isclose(c.strength, paper.GRID[attack]).any())
    return found or tuple(present)


class Measures:
    """The numbers of one run, each computed once, from its predictions and nothing else."""

    def __init__(self, found: Predictions) -> None:
        self.found = found
        self.defences = found.defences
        self.units = units_of(found.provenance)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the paper's Table 1, with the strictest adaptive PGD as the last."""
        return (CLEAN_COLUMN, *self._block(self.found.conditions), *self.last)

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
        return (CLEAN_COLUMN, *block, *self.last) if block else ()

    def _block(
        self, present: Callable[[str], Sequence[Condition]], *, strictest: bool = False
    ) -> list[Column]:
        columns = []
        for attack in ("fgsm", "pgd"):
            name, shown = attack.upper(), on_grid(attack, present(attack))
            for c in shown:
                heading = f"{name} {c.strength:g}".replace(" 0.", " .")
                columns.append(Column(heading, (c,), strictest))
            if shown:
                columns.append(Column(f"{name} mean", shown, strictest, mean=True))
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
        rest = sorted({cell[1] for cell in found.cells if cell not in told} - shown)
        return tuple(Column(f"{c.attack} {c.strength:g}, {c.knowledge}", (c,)) for c in rest)

    def answers(self, defence: str, column: Column) -> NDArray[np.intp] | None:
        """Return the (K, N) predictions behind an entry, None where one of the K has none."""
        return self.found.answers(defence, column.of(self.found, defence))

    def uar(self, defence: str, heading: str) -> float:
        """Return an entry of Table 1, ``nan`` where there is no such column or it has a gap."""
        return self._uars.get((defence, heading), _NAN)

    @cached_property
    def _uars(self) -> dict[tuple[str, str], float]:
        frame = self.by("all", self.columns)
        pairs = zip(frame["defence"], frame["column"], strict=True)
        return dict(zip(pairs, frame["percent"], strict=True))

    @cached_property
    def table(self) -> pd.DataFrame:
        """All that is known of each entry of Table 1 (`entries`)."""
        return self.entries(self.columns)

    def entries(self, columns: Iterable[Column]) -> pd.DataFrame:
        """Return all that is known of each entry, one row per defence and column (tidy).

        Returns:
            Columns ``defence``, ``column`` (heading), ``attack``, ``strength`` (``nan`` of a
            mean), ``knowledge``, ``intensities`` (K), ``uar_percent``,
            ``sd_over_intensities_percent`` (population), ``mean_over_folds_percent``,
            ``sd_over_folds_percent`` (population), ``low_percent`` and ``high_percent`` (95 % over
            speakers), ``over_clean`` (share of the clean UAR of the undefended target), and the
            paper's own ``paper_uar_percent``, ``paper_sd_over_intensities_percent`` and
            ``paper_over_clean``. What was not measured is ``nan``.
        """
        rows = []
        for defence in self.defences:
            for column in columns:
                conditions = column.of(self.found, defence)
                known = [c.knowledge for c in conditions if c is not None]
                published, spread = column.in_paper(defence)
                rows.append(
                    {
                        "defence": defence,
                        "column": column.heading,
                        "attack": column.attack,
                        "strength": column.conditions[0].strength if len(conditions) == 1 else _NAN,
                        "knowledge": "/".join(dict.fromkeys(known)),
                        "intensities": len(conditions),
                        **self._entry(self.found.answers(defence, conditions)),
                        "paper_uar_percent": published,
                        "paper_sd_over_intensities_percent": spread,
                        "paper_over_clean": published / paper.CLEAN_UAR,
                    }
                )
        return pd.DataFrame(rows)

    def _entry(self, cells: NDArray[np.intp] | None) -> dict[str, float]:
        """Return the numbers of one entry from its (K, N) predictions."""
        if cells is None:
            return _ENTRY
        found = self.found
        clean = 100 * metrics.uar(found.labels, found.cells[UNDEFENDED, CLEAN])
        uars = [100 * metrics.uar(found.labels, cell) for cell in cells]
        folds = over_folds([percent for _, percent in self._by_group("run", cells)])
        uar = float(np.mean(uars))
        sd = float(np.std(uars)) if len(uars) > 1 else _NAN
        ends = found.interval(cells, times=100)
        kept = uar / clean if clean else _NAN
        return dict(zip(_ENTRY, (uar, sd, folds.mean, folds.sd, *ends, kept), strict=True))

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """UAR, folds and interval of every cell that was measured, one row each (tidy)."""
        measured = sorted({condition for _, condition in self.found.cells})
        frame = self.entries([Column("", (condition,)) for condition in measured])
        frame = frame[frame["uar_percent"].notna()].reset_index(drop=True)
        numbers = [name for name in _ENTRY if name != "sd_over_intensities_percent"]
        return frame[["defence", "attack", "strength", "knowledge", *numbers]]

    def by(self, group: str, columns: Sequence[Column]) -> pd.DataFrame:
        """Return UAR by ``all``, ``run``, ``seed``, ``speaker``, ``gender``, recall by ``emotion``.

        Columns ``defence``, ``column``, ``group`` and ``percent``; a run is its fold and seed. A
        class that a group does not have does not count.
        """
        rows = []
        for defence in self.defences:
            for column in columns:
                if (cells := self.answers(defence, column)) is not None:
                    told = self._by_group(group, cells)
                    rows += [(defence, column.heading, name, percent) for name, percent in told]
        return pd.DataFrame(rows, columns=["defence", "column", "group", "percent"])

    def _by_group(self, group: str, cells: NDArray[np.intp]) -> list[tuple[Any, float]]:
        """Return the name of each group and the percentage of its (K, N) predictions."""
        found, labels = self.found, self.found.labels
        if group == "all":
            return [("all", percent(labels, cells))]
        if group == "emotion":
            recalls = recall_by_class(labels, cells)
            return [(found.classes[int(code)], 100 * recall) for code, recall in recalls.items()]
        if group in ("speaker", "gender"):
            groups = found.speakers if group == "speaker" else found.genders
            return [(n, 100 * u) for n, u in uar_by_group(labels, cells, groups).items()]
        names: Sequence[Any] = found.runs
        of = found.folds
        if group == "seed":
            names = found.seeds
            of = np.array([found.seeds.index(seed) for _, seed in found.runs])[of]
        parts = [of == i for i in range(len(names))]
        return [
            (name, percent(labels[part], cells[:, part]))
            for name, part in zip(names, parts, strict=True)
        ]

    @cached_property
    def protection(self) -> pd.DataFrame:
        """PE and RR against k of oblivious PGD, one row per defence, k and measure (tidy).

        Columns ``defence``, ``k``, ``measure`` (``PE`` | ``RR``), ``value`` (pooled over folds),
        ``mean_over_folds`` and ``sd_over_folds`` (population, over the folds in which it is
        defined), ``low`` and ``high`` (95 % bootstrap over speakers).
        """
        found = self.found
        runs = [found.folds == run for run in range(len(found.runs))]
        rows: list[tuple[Any, ...]] = []
        for defence in (name for name in self.defences if name != UNDEFENDED):
            for c in found.conditions("pgd"):
                if found.of(defence, c) is None:
                    continue
                pooled = self._protected(defence, c, c)
                apart = np.array([self._protected(defence, c, c, run) for run in runs])
                drawn = self._drawn(defence, c)
                for i, name in enumerate(PROTECTION):
                    told = over_folds(apart[:, i])
                    numbers = (pooled[i], told.mean, told.sd, *interval_of(drawn[i]))
                    rows.append((defence, int(c.strength), name, *numbers))
        columns = ("defence", "k", "measure", "value", "mean_over_folds", "sd_over_folds")
        return pd.DataFrame(rows, columns=[*columns, "low", "high"])

    @cached_property
    def worth(self) -> pd.DataFrame:
        """PE and RR (mean and sd over k, adaptive) and the harm rate, one row per defence."""
        found, rows, told = self.found, [], self.protection
        for defence in (name for name in self.defences if name != UNDEFENDED):
            known = self._protected(defence, found.adaptive(UNDEFENDED), found.adaptive(defence))
            row: dict[str, Any] = {"defence": defence}
            for name, adaptive in zip(PROTECTION, known, strict=True):
                mine = told[(told["defence"] == defence) & (told["measure"] == name)]
                values = mine["value"].to_numpy(dtype=np.float64)
                # A mean over some of the steps would be another measure.
                whole = len(values) == len(found.conditions("pgd")) > 0
                row[f"{name} mean"] = float(values.mean()) if whole else _NAN
                row[f"{name} sd"] = float(values.std()) if whole else _NAN
                row[f"{name} adaptive"] = adaptive
            row["harm"] = _NAN
            if (alone := found.of(defence, CLEAN)) is not None:
                clean = found.cells[UNDEFENDED, CLEAN]
                row["harm"] = metrics.harm_rate(found.labels, clean, alone)
            rows.append(row)
        return pd.DataFrame(rows)

    def over_steps(self, defence: str) -> dict[str, tuple[float, Interval | None]]:
        """Return ``PE`` and ``RR`` as means over every k of oblivious PGD, with their intervals.

        A mean has no interval where there are too few speakers.
        """
        conditions, told = self.found.conditions("pgd"), {}
        pairs = [self._protected(defence, c, c) for c in conditions]
        drawn = [self._drawn(defence, c) for c in conditions] if self.found.draws else []
        for i, name in enumerate(PROTECTION):
            ends = interval_of(np.mean([each[i] for each in drawn], axis=0)) if drawn else None
            told[name] = float(np.mean([pair[i] for pair in pairs])), ends
        return told

    def _protected(
        self,
        defence: str,
        bare: Condition | None,
        defended: Condition | None,
        rows: NDArray[np.bool_] | slice = _EVERY,
    ) -> tuple[float, float]:
        """Return PE and RR; `bare` attacks the undefended target, `defended` the defended one."""
        found = self.found
        labels, clean = found.labels[rows], found.cells[UNDEFENDED, CLEAN][rows]
        attacked, protected = found.of(UNDEFENDED, bare), found.of(defence, defended)
        if protected is None:
            return _NAN, _NAN
        recovery = metrics.recovery_rate(labels, clean, protected[rows])
        if attacked is None:
            return _NAN, recovery
        return metrics.protection_efficacy(labels, clean, attacked[rows], protected[rows]), recovery

    def _drawn(
        self, defence: str, condition: Condition
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return PE and RR of each draw of speakers; empty without draws."""
        found, draws = self.found, self.found.draws
        attacked, protected = found.of(UNDEFENDED, condition), found.of(defence, condition)
        if draws is None or protected is None:
            return np.empty(0), np.empty(0)

        def ratio(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> NDArray[np.float64]:
            some, all_of = draws.counts(part), draws.counts(whole)
            return np.divide(some, all_of, out=np.full_like(some, np.nan), where=all_of > 0)

        right = found.cells[UNDEFENDED, CLEAN] == found.labels
        recovered = ratio(~right & (protected == found.labels), ~right)
        if attacked is None:
            return np.empty(0), recovered
        # The number of clean-correct utterances cancels: R_prot / R_no is a ratio of counts.
        left = ratio(right & (protected != found.labels), right & (attacked != found.labels))
        return 1 - left, recovered

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
    def drawn_uar(self) -> tuple[str, ...]:
        """The defences of the curves of UAR: the best of each kind, and none at all."""
        return self.drawn(*TRAINED, "control", UNDEFENDED)

    @property
    def drawn_protection(self) -> tuple[str, ...]:
        """The defences of Figure 2: SSAD and the adversarially trained models, as the paper."""
        trained = self.best_of(*TRAINED) is not None
        groups = ("similarity", "pgd-at", "trades", "smoothed") if trained else ("control",)
        defences = tuple(name for name in self.drawn(*groups) if name != UNDEFENDED)
        return defences or tuple(name for name in self.defences if name != UNDEFENDED)[:8]


class Units(NamedTuple):
    """What a change of 1 on the [0, 1] scale is in other units; None where nothing says so.

    [18] (Ren et al. 2020) attacks log-Mel in standard deviations of a Mel bin. With the dB window,
    ε is ε · window dB, and at 12 dB per standard deviation ε · window / 12 of them (· 6.67 for
    80 dB). With the z-score scale ε · width is exact, and the dB depend on the bin: its mean is
    told where the provenance has ``scale_sd_db``, the mean standard deviation of a bin in dB (one
    number, or one for each fold).
    """

    db: float | None
    """In dB (of an average Mel bin, where bins differ)."""
    z: float | None
    """In standard deviations of a Mel bin."""
    exact_z: bool
    """Whether the z-scores are exact (z-score scale) or rest on `BIN_SD_DB`."""

    def told(self, epsilon: float) -> str:
        """Return ε in the other units, ``0.24 dB, z .020``, or ``""``."""
        parts = []
        if self.db is not None:
            mean = "mean\N{NO-BREAK SPACE}" if self.exact_z else ""
            parts.append(f"{mean}{epsilon * self.db:.2f}\N{NO-BREAK SPACE}dB")
        if self.z is not None:
            parts.append(f"z\N{NO-BREAK SPACE}{epsilon * self.z:.3f}".replace("0.", ".", 1))
        return ", ".join(parts)


def units_of(provenance: Mapping[str, Any]) -> Units:
    """Return the units of the scale that `provenance` names (``scale``)."""
    scale = provenance.get("scale")
    if not isinstance(scale, Mapping):
        return Units(None, None, exact_z=False)
    width = _mean(scale.get("width_sd"))
    if width is not None:
        sd = _mean(provenance.get("scale_sd_db"))
        return Units(None if sd is None else width * sd, width, exact_z=True)
    window = _mean(scale.get("window_db"))
    return Units(window, None if window is None else window / BIN_SD_DB, exact_z=False)


def _mean(value: object) -> float | None:
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None


def percent(labels: NDArray[np.intp], cells: NDArray[np.intp]) -> float:
    """Return the mean UAR of (K, N) predictions in percent."""
    return 100 * float(np.mean([metrics.uar(labels, cell) for cell in cells]))
