"""Two runs or audits side by side: what changes from A to B, how surely, which settings differ.

They may be compared where they hold the same corpus, label scheme, classes and held-out speakers
in each fold; anything else (the target, the scale, a training) may differ, since that is what one
compares. A measure is compared where both sides were attacked alike, and shown where not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from servax.errors import ServaxError
from servax.evaluation.records import Records
from servax.evaluation.statistics import (
    FEWEST_SPEAKERS,
    RESAMPLES,
    SEED,
    interval_of,
    no_interval,
)
from servax.report.audit_result import AuditResult
from servax.report.audit_tables import GROUPS
from servax.report.figures import difference_plot
from servax.report.measures import CLEAN_COLUMN, Column, on_grid, percent
from servax.report.predictions import Condition, Predictions, collect, in_order
from servax.report.rendering import Picture, Prose, Report, ReportPaths, words, write
from servax.report.run import NOT_RECORDED, setting
from servax.report.style import png
from servax.report.tables import MISSING, Cell, Field, Head, Row, Table, listing, percentage, signed

_NAN = float("nan")
_FACTS = ("command", "commit", "machine")
Measure = Column | Sequence[str]
"""What is measured: under these conditions, or against these attackers in the worst case."""


def write_comparison(
    a: Records | AuditResult,
    b: Records | AuditResult,
    folder: str | Path,
    *,
    names: tuple[str, str],
) -> tuple[Table, ReportPaths]:
    """Write a report on two runs or audits into `folder`.

    Args:
        a: The first.
        b: The second; differences are B − A.
        folder: Made when it does not exist; files of an earlier report are replaced.
        names: How the two are called.

    Returns:
        The table of differences, and the paths written.

    Raises:
        ServaxError: They cannot be compared (`pair`).
    """
    sides = pair(a, b, names=names)
    frame = differences(*sides)
    return difference_table(*sides, frame), write(report(*sides, frame), Path(folder))


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a comparison."""

    letter: str
    """``A`` or ``B``."""
    name: str
    """How it is called in tables."""
    found: Predictions
    """Its predictions."""
    audit: AuditResult | None
    """The audit, if it is one."""
    rows: pd.DataFrame
    """Utterance, speaker, label and fold of all that was said."""

    @classmethod
    def of(cls, given: Records | AuditResult, letter: str, name: str) -> Side:
        """Return a side, refused as its own report would be."""
        audit = given if isinstance(given, AuditResult) else None
        records = given.records if isinstance(given, AuditResult) else given
        try:
            found = audit.found if audit else collect(records.frame, records.provenance)
        except ServaxError as error:
            raise ServaxError(f"{name}: {error}") from error
        rows = records.frame[["utterance", "speaker", "label", "fold"]].drop_duplicates()
        return cls(letter, name, found, audit, rows)

    @cached_property
    def spoken(self) -> frozenset[tuple[str, str, str]]:
        """Utterance, speaker and label of all rows."""
        kept = self.rows[["utterance", "speaker", "label"]]
        return frozenset(kept.itertuples(index=False, name=None))

    @cached_property
    def held_out(self) -> dict[int, str]:
        """Fold → its speakers."""
        groups = self.rows.groupby("fold")["speaker"]
        return {int(str(fold)): ", ".join(sorted(set(who))) for fold, who in groups}

    @property
    def folds(self) -> str:
        """Its folds as a refusal names them: ``folds 1, 2 in first``."""
        numbers = ", ".join(map(str, sorted(self.held_out)))
        return f"fold{'s' * (len(self.held_out) > 1)} {numbers} in {self.name}"

    @property
    def hashes(self) -> set[str]:
        """The beginnings of the hashes of its folds: one file of a run carries those of all."""
        told = str(self.found.provenance.get("fold_hash", "")).split(",")
        return {part.strip()[:16] for part in told} - {""}

    @property
    def recipe(self) -> Mapping[str, Any] | None:
        """The settings that its records hold."""
        told = self.found.provenance.get("audit" if self.audit else "settings")
        return told if isinstance(told, Mapping) else None

    @property
    def settings(self) -> dict[str, str]:
        """Dotted name → value as JSON, of the recipe and of what decides a result beside it."""
        told: dict[str, Any] = {"target": self.found.target, "seeds": list(self.found.seeds)}
        for key in ("recipe", "servax"):
            if key in self.found.provenance:
                told[key] = self.found.provenance[key]
        # The name of a recipe stands in `recipe`, its seeds in `seeds`.
        named = ("name", "seed", "seeds")
        return _flat(told | {k: part for k, part in (self.recipe or {}).items() if k not in named})

    def told(self, name: str) -> str:
        """Return an entry of the provenance as it is printed."""
        return setting(self.found.provenance.get(name, NOT_RECORDED))

    def attacks(self, measure: Measure, defence: str) -> Sequence[Condition | None]:
        """Return the attacks behind a measure of a defence."""
        if isinstance(measure, Column):
            return measure.of(self.found, defence)
        return self.audit.within(defence, measure) if self.audit else ()

    def answers(self, measure: Measure, defence: str) -> NDArray[np.intp] | None:
        """Return (K, N) predictions: of attackers the worst of all that they do, as one."""
        attacks = self.attacks(measure, defence)
        if isinstance(measure, Column):
            return self.found.answers(defence, attacks)
        worst = self.found.worst(defence, attacks)
        return None if worst is None else worst[None]

    def uar(self, cells: NDArray[np.intp] | None) -> float:
        """Return the mean UAR of (K, N) predictions in percent, ``nan`` of none."""
        return _NAN if cells is None else percent(self.found.labels, cells)

    def drawn(self, cells: NDArray[np.intp] | None) -> NDArray[np.float64]:
        """Return the UAR in percent of each draw of speakers."""
        if cells is None or self.found.draws is None:
            return np.empty(0)
        return 100 * self.found.draws.uar(self.found.labels, cells)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, part in value.items():
        name = f"{before}{key}"
        if isinstance(part, Mapping):
            flat |= _flat(part, f"{name}.") or {name: "{}"}
        else:
            flat[name] = part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
    return flat


def pair(
    a: Records | AuditResult, b: Records | AuditResult, *, names: tuple[str, str]
) -> tuple[Side, Side]:
    """Return two sides that can be compared.

    Raises:
        ServaxError: They differ in corpus, label scheme, classes, held-out speakers or labels; or
            one of them has no report of its own (`servax.report.collect`).
    """
    first, second = Side.of(a, "A", names[0]), Side.of(b, "B", names[1])
    if apart := _apart(first, second):
        raise ServaxError(
            f"{first.name} and {second.name} cannot be compared: {apart}; "
            "compare runs over the same utterances and classes."
        )
    return first, second


def _apart(a: Side, b: Side) -> str:
    """Return why two sides cannot be compared; nothing where they can."""
    facts = {
        "corpus": [side.found.corpus for side in (a, b)],
        "label scheme": [str(side.found.provenance.get("scheme", "")) for side in (a, b)],
        "classes": [", ".join(sorted(side.found.classes)) for side in (a, b)],
    }
    for what, (here, there) in facts.items():
        if here != there:
            return f"{what} is {here or NOT_RECORDED} and {there or NOT_RECORDED}"
    if set(a.held_out) != set(b.held_out):
        common = sorted(set(a.held_out) & set(b.held_out))
        advice = f" (both hold fold {common[0]}: give its Parquet file alone)" if common else ""
        return f"they hold {a.folds} and {b.folds}{advice}"
    for fold, here in a.held_out.items():
        if here != b.held_out[fold]:
            return f"fold {fold} holds out the speakers {here} and {b.held_out[fold]}"
    # Folds may hold out the same speakers and train on others, where hashes tell.
    if a.hashes and b.hashes and not (a.hashes <= b.hashes or b.hashes <= a.hashes):
        here, there = (", ".join(sorted(each)) for each in (a.hashes, b.hashes))
        return f"their folds train on other speakers (fold hash {here} and {there})"
    both = pd.concat([side.rows[["utterance", "label"]] for side in (a, b)]).drop_duplicates()
    twice = both["utterance"][both.duplicated("utterance")]
    return f"utterance {twice.iloc[0]} has another label in each" if len(twice) else ""


def adaptive_steps(a: Side, b: Side) -> tuple[int, int]:
    """Return the steps of the adaptive PGD of each run: the most that both were measured with.

    Where they share none, each run's own most; these are not the same measurement.
    """
    if a.audit or b.audit:
        return 0, 0
    common = set(a.found.exact("pgd")) & set(b.found.exact("pgd"))
    if common:
        most = int(max(common).strength)
        return most, most
    return a.found.adaptive_steps, b.found.adaptive_steps


def _measures(a: Side, b: Side) -> dict[str, tuple[Measure, Measure]]:
    """Return measure → what it is on either side.

    Of two audits what each attacker leaves in the worst case; else means over the intensities of
    the paper's grid that both hold, or over all that both hold where neither is on it.
    """
    found: dict[str, tuple[Measure, Measure]] = {"clean": (CLEAN_COLUMN, CLEAN_COLUMN)}
    if a.audit and b.audit:
        return found | {name: (who, who) for name, who in GROUPS.items()}
    for attack in ("fgsm", "pgd"):
        theirs = set(b.found.conditions(attack))
        common = [c for c in a.found.conditions(attack) if c in theirs]
        if common:
            heading = f"{attack.upper()} mean"
            found[heading] = (Column(heading, on_grid(attack, common)),) * 2
    steps = adaptive_steps(a, b)
    if all(steps):
        name = "adaptive PGD"
        one, other = (Condition("pgd", float(k), "adaptive") for k in steps)
        found[name] = Column(name, (one,), strictest=True), Column(name, (other,), strictest=True)
    return found


def differences(a: Side, b: Side) -> pd.DataFrame:
    """Return every measure of every defence that both hold, in the order of the tables (tidy).

    Columns ``defence``, ``measure``, ``a_percent``, ``b_percent``, ``difference_points`` (B − A,
    ``nan`` where the two are not the same measurement), and ``low_points`` and ``high_points``
    (95 % of the difference over speakers, paired; ``nan`` where utterances differ).
    """
    rows = []
    paired = a.found.draws is not None and a.spoken == b.spoken
    for defence in in_order(set(a.found.defences) & set(b.found.defences)):
        for name, (here, there) in _measures(a, b).items():
            cells = a.answers(here, defence), b.answers(there, defence)
            if not isinstance(here, Column) and all(cell is None for cell in cells):
                continue
            # Equal names are not enough between audits: their attacks have settings of their own.
            told = [
                repr([(c, c and c.settings) for c in side.attacks(measure, defence)])
                for side, measure in ((a, here), (b, there))
            ]
            alike = here == there and (isinstance(here, Column) or told[0] == told[1])
            uars = a.uar(cells[0]), b.uar(cells[1])
            ends, difference = (_NAN, _NAN), uars[1] - uars[0] if alike else _NAN
            if paired and not np.isnan(difference):
                ends = interval_of(b.drawn(cells[1]) - a.drawn(cells[0]))
            rows.append((defence, name, *uars, difference, *ends))
    columns = ("a_percent", "b_percent", "difference_points", "low_points", "high_points")
    return pd.DataFrame(rows, columns=["defence", "measure", *columns])


def report(a: Side, b: Side, frame: pd.DataFrame) -> Report:
    """Return the report on two runs or audits and their differences."""
    picture = Picture(
        "differences",
        "B − A by defence",
        f"Difference in UAR points, {b.name} (B) minus {a.name} (A), with 95 % intervals over "
        "speakers where both hold the same utterances. Right of the line B is better.",
        png(difference_plot(frame)),
    )
    definitions = words(
        "comparison",
        audits=bool(a.audit and b.audit),
        draws=f"{RESAMPLES} draws, seed {SEED}",
        fewest=FEWEST_SPEAKERS,
    )
    facts = [(f"{s.letter}: {name}", s.told(name)) for s in (a, b) for name in _FACTS]
    return Report(
        title=f"servax report: {b.name} against {a.name}",
        findings=tuple(_verdict(a, b, frame)),
        provenance=(("A", a.name), ("B", b.name), ("corpus", a.found.corpus), *facts),
        sections=(
            difference_table(a, b, frame),
            settings_table(a, b),
            picture,
            Prose("What the words mean", definitions),
        ),
        first=("tables/differences", "figures/differences", "tables/settings"),
    )


def _sure(row: Row) -> bool:
    return bool(row["low_points"] > 0 or row["high_points"] < 0)


def difference_table(a: Side, b: Side, frame: pd.DataFrame) -> Table:
    """Return A, B, B − A and its interval: one row for each defence and measure."""

    def interval(row: Row) -> str:
        low, high = row["low_points"], row["high_points"]
        return MISSING if np.isnan(low) else f"[{signed(low)}, {signed(high)}]"

    fields = [
        Field(Head("defence"), lambda row: row["defence"]),
        Field(Head("measure"), lambda row: row["measure"]),
        Field(Head("A"), lambda row: percentage(row["a_percent"])),
        Field(Head("B"), lambda row: percentage(row["b_percent"])),
        Field(Head("B − A"), lambda row: Cell(signed(row["difference_points"]), best=_sure(row))),
        Field(Head("95 % interval"), interval),
    ]
    return listing(
        frame,
        fields,
        title="UAR (%) of both runs and their difference",
        note=f"A is {a.name}, B is {b.name}. Bold: the 95 % interval over speakers does not hold "
        "0. No difference where the two are not the same measurement, no interval where the runs "
        "hold other utterances.",
        name="differences",
    )


def settings_table(a: Side, b: Side) -> Table:
    """Return every setting of the two that differs, and what else they do not share."""
    here, there = a.settings, b.settings
    changed = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
    note = "" if changed else "None that is recorded."
    silent = [side.letter for side in (a, b) if side.recipe is None]
    if silent:
        note = f"{note} The records of {silent[0]} do not hold the recipe."
    rows = [(key, here.get(key, ""), there.get(key, "")) for key in changed]
    return listing(
        pd.DataFrame(rows, columns=["setting", "a", "b"]),
        [
            Field(Head("setting"), lambda row: row["setting"]),
            Field(Head("A"), lambda row: row["a"] or MISSING),
            Field(Head("B"), lambda row: row["b"] or MISSING),
        ],
        title="Settings that differ",
        note=note.strip(),
        name="settings",
    )


def _verdict(a: Side, b: Side, frame: pd.DataFrame) -> list[str]:
    judged = frame[frame["low_points"].notna()]
    sure = [row for row in judged.to_dict("records") if _sure(row)]
    sure.sort(key=lambda row: -abs(row["difference_points"]))
    first = (
        f"From {a.name} (A) to {b.name} (B), the 95 % interval over speakers holds no 0 for "
        f"{len(sure)} of {len(judged)} differences"
    )
    told = [f"{r['defence']} {signed(r['difference_points'])} ({r['measure']})" for r in sure[:5]]
    sentences = [f"{first}; the largest: {', '.join(told)}." if told else f"{first}."]
    if few := no_interval(np.unique(a.found.speakers).size):
        sentences.append(few)
    if a.spoken != b.spoken:
        sentences.append(
            f"The runs hold different utterances ({len(a.spoken)} and {len(b.spoken)}), so there "
            "are no paired intervals."
        )
    sentences += _attacked_otherwise(a, b, frame)
    for one, other in ((a, b), (b, a)):
        if only := set(one.found.defences) - set(other.found.defences):
            where = f"Only in {one.letter}, not in {other.letter}"
            sentences.append(f"{where}: {', '.join(in_order(only))}.")
    for name, what in (("scale", "the scale"), ("attacks", "the attack settings")):
        if a.told(name) != b.told(name) and not (a.audit or b.audit):
            sentences.append(
                f"They differ in {what} ({a.told(name)} and {b.told(name)}), so an attack of "
                "one name need not be the same attack."
            )
    return sentences


def _attacked_otherwise(a: Side, b: Side, frame: pd.DataFrame) -> list[str]:
    """Return why some measures are shown and not compared, or not even shown."""
    steps = adaptive_steps(a, b)
    if all(steps) and steps[0] != steps[1]:
        return [
            f"A was attacked adaptively with PGD-{steps[0]}, B with PGD-{steps[1]}: the two are "
            "shown, and not compared."
        ]
    apart = frame[frame["difference_points"].isna()]
    measured = [", ".join(dict.fromkeys(rows["measure"])) for rows in (frame, apart)]
    if bool(a.audit) != bool(b.audit):
        kinds = ("an audit", "a run") if a.audit else ("a run", "an audit")
        return [
            f"A is {kinds[0]} and B {kinds[1]}: only what both measured alike stands here, "
            f"{measured[0]}."
        ]
    if a.audit and b.audit and len(apart):
        radii = f"{a.audit.radius:g}", f"{b.audit.radius:g}"
        same = a.audit.radius == b.audit.radius
        why = "by other attacks" if same else f"at radius {radii[0]} and {radii[1]}"
        return [
            f"The two were attacked {why}, so these measures are shown, and not compared: "
            f"{measured[1]}."
        ]
    return []
