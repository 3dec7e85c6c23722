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
from servax.report.audit.result import AuditResult
from servax.report.audit.scores import ATTACKERS, Scores, scores
from servax.report.audit.tables import HEADINGS
from servax.report.figures import difference_plot
from servax.report.measures import Column, on_grid, percent
from servax.report.predictions import CLEAN, Condition, Predictions, collect, in_order
from servax.report.rendering import Content, Picture, ReportPaths, write_content
from servax.report.run_sentences import NOT_RECORDED, setting
from servax.report.style import png
from servax.report.tables import MISSING, Cell, Field, Head, Row, Table, listing, percentage, signed

__all__ = ["Side", "compare", "differences", "pair", "write_comparison"]

_COLUMNS = (
    "defence",
    "measure",
    "a_percent",
    "b_percent",
    "difference_points",
    "low_points",
    "high_points",
)
Attacks = Sequence[Condition | None]
Spec = Column | tuple[str, ...]
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
    content = compare(*pair(a, b, names=names))
    return content.tables[0], write_content(content, Path(folder))


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a comparison."""

    name: str
    """How it is called in tables."""
    found: Predictions
    """Its predictions."""
    audit: Scores | None
    """The worst cases of an audit."""
    rows: pd.DataFrame
    """Utterance, speaker, label and fold of all that was said."""

    @classmethod
    def of(cls, given: Records | AuditResult, name: str) -> Side:
        """Return a side, refused as its own report would be."""
        records = given.records if isinstance(given, AuditResult) else given
        try:
            audit = scores(given) if isinstance(given, AuditResult) else None
            found = audit.found if audit else collect(records.frame, records.provenance)
        except ServaxError as error:
            raise ServaxError(f"{name}: {error}") from error
        rows = records.frame[["utterance", "speaker", "label", "fold"]].drop_duplicates()
        return cls(name, found, audit, rows)

    @cached_property
    def spoken(self) -> frozenset[tuple[str, str, str]]:
        """Utterance, speaker and label of all rows."""
        return frozenset(
            self.rows[["utterance", "speaker", "label"]].itertuples(index=False, name=None)
        )

    @cached_property
    def held_out(self) -> dict[int, tuple[str, ...]]:
        """Fold → its speakers."""
        groups = self.rows.groupby("fold")["speaker"]
        return {int(str(fold)): tuple(sorted(set(who))) for fold, who in groups}

    def told(self, name: str) -> str:
        """Return an entry of the provenance as it is printed."""
        return setting(self.found.provenance.get(name, NOT_RECORDED))

    def attacks(self, spec: Spec, defence: str) -> Attacks:
        """Return the attacks behind a measure of a defence."""
        if isinstance(spec, Column):
            return spec.of(self.found, defence)
        return self.audit.within(defence, spec) if self.audit else ()

    def answers(self, spec: Spec, defence: str) -> NDArray[np.intp] | None:
        """Return (K, N) predictions: of attackers the worst of all that they do, as one."""
        cells = self.found.answers(defence, self.attacks(spec, defence))
        if cells is None or isinstance(spec, Column):
            return cells
        kept = (cells == self.found.labels).all(axis=0)
        return np.where(kept, self.found.labels, -1)[None]


def pair(
    a: Records | AuditResult, b: Records | AuditResult, *, names: tuple[str, str]
) -> tuple[Side, Side]:
    """Return two sides that can be compared.

    Raises:
        ServaxError: They differ in corpus, label scheme, classes, held-out speakers or labels; or
            one of them has no report of its own (`servax.report.collect`).
    """
    first, second = sides = Side.of(a, names[0]), Side.of(b, names[1])
    facts = {
        "corpus": [side.found.corpus for side in sides],
        "label scheme": [str(side.found.provenance.get("scheme", "")) for side in sides],
        "classes": [", ".join(sorted(side.found.classes)) for side in sides],
    }
    for what, (here, there) in facts.items():
        if here != there:
            told = f"{what} is {here or NOT_RECORDED} and {there or NOT_RECORDED}"
            raise _refusal(first, second, told)
    _same_folds(first, second)
    both = pd.concat([side.rows[["utterance", "label"]] for side in sides]).drop_duplicates()
    twice = both[both.duplicated("utterance")]
    if len(twice):
        name = twice["utterance"].iloc[0]
        raise _refusal(first, second, f"utterance {name} has another label in each")
    return sides


def _refusal(a: Side, b: Side, what: str) -> ServaxError:
    return ServaxError(
        f"{a.name} and {b.name} cannot be compared: {what}; "
        "compare runs over the same utterances and classes."
    )


def _same_folds(a: Side, b: Side) -> None:
    if set(a.held_out) != set(b.held_out):
        told = [f"{_folds(side)} in {side.name}" for side in (a, b)]
        common = sorted(set(a.held_out) & set(b.held_out))
        advice = f" (both hold fold {common[0]}: give its Parquet file alone)" if common else ""
        raise _refusal(a, b, f"they hold {told[0]} and {told[1]}{advice}")
    for fold in a.held_out:
        here, there = (", ".join(side.held_out[fold]) for side in (a, b))
        if here != there:
            raise _refusal(a, b, f"fold {fold} holds out the speakers {here} and {there}")
    # Folds may hold out the same speakers and train on others, where hashes tell. One file of a
    # run carries the hashes of all its folds, and their beginnings only.
    hashes = [
        {part.strip()[:16] for part in str(side.found.provenance.get("fold_hash", "")).split(",")}
        - {""}
        for side in (a, b)
    ]
    if all(hashes) and not (hashes[0] <= hashes[1] or hashes[1] <= hashes[0]):
        here, there = (", ".join(sorted(each)) for each in hashes)
        words = f"their folds train on other speakers (fold hash {here} and {there})"
        raise _refusal(a, b, words)


def _folds(side: Side) -> str:
    numbers = list(map(str, sorted(side.held_out)))
    return f"fold{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


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


def _measures(a: Side, b: Side) -> dict[str, tuple[Spec, Spec]]:
    """Return measure → what it is on either side.

    Of two audits what each attacker leaves in the worst case; else means over the intensities of
    the paper's grid that both hold, or over all that both hold where neither is on it.
    """
    clean = Column("clean", (CLEAN,))
    if a.audit and b.audit:
        groups = {HEADINGS[k]: (k,) for k in ATTACKERS} | {"worst of all": ATTACKERS}
        return {"clean": (clean, clean)} | {name: (who, who) for name, who in groups.items()}
    found: dict[str, tuple[Spec, Spec]] = {"clean": (clean, clean)}
    for attack in ("fgsm", "pgd"):
        theirs = set(b.found.conditions(attack))
        common = [c for c in a.found.conditions(attack) if c in theirs]
        if common:
            heading = f"{attack.upper()} mean"
            found[heading] = (Column(heading, on_grid(attack, common)),) * 2
    steps = adaptive_steps(a, b)
    if all(steps):
        name = "adaptive PGD"
        strictest = [(Condition("pgd", float(k), "adaptive"),) for k in steps]
        found[name] = Column(name, strictest[0], True), Column(name, strictest[1], True)
    return found


def differences(a: Side, b: Side) -> pd.DataFrame:
    """Return every measure of every defence that both hold, in the order of the tables (tidy).

    Columns ``defence``, ``measure``, ``a_percent``, ``b_percent``, ``difference_points`` (B − A,
    ``nan`` where the two are not the same measurement), and ``low_points`` and ``high_points``
    (95 % of the difference over speakers, paired; ``nan`` where utterances differ).
    """
    rows, nothing = [], float("nan")
    paired = a.found.draws is not None and a.spoken == b.spoken
    for defence in in_order(set(a.found.defences) & set(b.found.defences)):
        for measure, specs in _measures(a, b).items():
            both = list(zip((a, b), specs, strict=True))
            cells = [side.answers(spec, defence) for side, spec in both]
            if cells[0] is None and cells[1] is None and not isinstance(specs[0], Column):
                continue
            uars = [
                nothing if cell is None else percent(side.found.labels, cell)
                for side, cell in zip((a, b), cells, strict=True)
            ]
            # Equal names are not enough between audits: their attacks have settings of their own.
            told = [repr([(c, c and c.settings) for c in s.attacks(x, defence)]) for s, x in both]
            alike = specs[0] == specs[1] and (isinstance(specs[0], Column) or told[0] == told[1])
            ends, difference = (nothing, nothing), uars[1] - uars[0] if alike else nothing
            if paired and not np.isnan(difference):
                band = interval_of(_drawn(b, cells[1]) - _drawn(a, cells[0]))
                ends = band.low, band.high
            rows.append((defence, measure, *uars, difference, *ends))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _drawn(side: Side, cells: NDArray[np.intp] | None) -> NDArray[np.float64]:
    """Return the UAR in % of each draw of speakers."""
    if cells is None or side.found.draws is None:
        return np.empty(0)
    return 100 * side.found.draws.uar(side.found.labels, cells)


def compare(a: Side, b: Side) -> Content:
    """Return the report on two runs or audits."""
    frame = differences(a, b)
    picture = Picture(
        "differences",
        "B − A by defence",
        f"Difference in UAR points, {b.name} (B) minus {a.name} (A), with 95 % intervals over "
        "speakers where both hold the same utterances. Right of the line B is better.",
        png(difference_plot(frame)),
    )
    means = (
        "Every other measure is what the worst of all attacks of such an attacker leaves, per "
        "utterance, at the audited radius."
        if a.audit and b.audit
        else "FGSM mean and PGD mean are oblivious attacks over the intensities that both runs "
        "hold; adaptive PGD takes gradients through the defence."
    )
    header = [("A", a.name), ("B", b.name), ("corpus", a.found.corpus)]
    for letter, side in (("A", a), ("B", b)):
        for name in ("command", "commit", "machine"):
            header.append((f"{letter}: {name}", side.told(name)))
    return Content(
        title=f"servax report: {b.name} against {a.name}",
        verdict=tuple(_verdict(a, b, frame)),
        header=tuple(header),
        tables=(difference_table(a, b, frame), settings_table(a, b)),
        appendix=(),
        pictures=(picture,),
        first=("differences", "figures/differences", "settings"),
        definitions=(
            "UAR is the mean of the per-class recalls, in percent, with the predictions of all "
            "folds pooled. Differences are in points, B − A.",
            means,
            f"Intervals are 95 % percentile bootstraps of the difference ({RESAMPLES} draws, seed "
            f"{SEED}): whole speakers are drawn, the same in both runs; of fewer than "
            f"{FEWEST_SPEAKERS} there are none. Bold: the interval does "
            "not hold 0. Intervals are not adjusted for their number, and take the trained models "
            "as given: a run with another seed moves too.",
        ),
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
    others = [set(side.found.defences) for side in (a, b)]
    for here, there, only in (("A", "B", others[0] - others[1]), ("B", "A", others[1] - others[0])):
        if only:
            sentences.append(f"Only in {here}, not in {there}: {', '.join(in_order(only))}.")
    for name, words in (("scale", "the scale"), ("attacks", "the attack settings")):
        if a.told(name) != b.told(name) and not (a.audit or b.audit):
            sentences.append(
                f"They differ in {words} ({a.told(name)} and {b.told(name)}), so an attack of "
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
    if bool(a.audit) != bool(b.audit):
        kinds = ("an audit", "a run") if a.audit else ("a run", "an audit")
        held = _measured(frame)
        return [
            f"A is {kinds[0]} and B {kinds[1]}: only what both measured alike stands here, {held}."
        ]
    apart = frame[frame["difference_points"].isna()]
    if a.audit and b.audit and len(apart):
        radii = [side.audit.result.radius for side in (a, b) if side.audit]
        why = (
            f"at radius {radii[0]:g} and {radii[1]:g}"
            if radii[0] != radii[1]
            else "by other attacks"
        )
        return [
            f"The two were attacked {why}, so these measures are shown, and not compared: "
            f"{_measured(apart)}."
        ]
    return []


def _measured(frame: pd.DataFrame) -> str:
    return ", ".join(dict.fromkeys(frame["measure"]))


def settings_table(a: Side, b: Side) -> Table:
    """Return every setting of the two that differs, and what else they do not share."""
    here, there = _settings(a), _settings(b)
    changed = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
    note = "" if changed else "None that is recorded."
    silent = [letter for letter, side in (("A", a), ("B", b)) if _recipe(side) is None]
    if silent:
        note = f"{note} The records of {silent[0]} do not hold the recipe."
    frame = pd.DataFrame(
        [(key, here.get(key, ""), there.get(key, "")) for key in changed],
        columns=["setting", "a", "b"],
    )
    fields = [
        Field(Head("setting"), lambda row: row["setting"]),
        Field(Head("A"), lambda row: here.get(row["setting"], MISSING)),
        Field(Head("B"), lambda row: there.get(row["setting"], MISSING)),
    ]
    return listing(frame, fields, title="Settings that differ", note=note.strip(), name="settings")


def _recipe(side: Side) -> Mapping[str, Any] | None:
    told = side.found.provenance.get("audit" if side.audit else "settings")
    return told if isinstance(told, Mapping) else None


def _settings(side: Side) -> dict[str, str]:
    """Return dotted name → value as JSON, of the recipe and of what decides a result beside it."""
    told: dict[str, Any] = {"target": side.found.target, "seeds": list(side.found.seeds)}
    for key in ("recipe", "servax"):
        if key in side.found.provenance:
            told[key] = side.found.provenance[key]
    # The name of a recipe stands in `recipe`, its seeds in `seeds`.
    named = ("name", "seed", "seeds")
    told |= {key: part for key, part in (_recipe(side) or {}).items() if key not in named}
    return _flat(told)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, part in value.items():
        name = f"{before}{key}"
        if isinstance(part, Mapping):
            flat |= _flat(part, f"{name}.") or {name: "{}"}
        else:
            flat[name] = part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
    return flat
