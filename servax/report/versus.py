"""A report on two runs: what changes from A to B, how surely, and which settings differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from servax.evaluation.records import Records
from servax.evaluation.statistics import FEWEST_SPEAKERS, no_interval
from servax.report import wording
from servax.report.cells import Cell, Head, TextTable
from servax.report.content import Content
from servax.report.pairing import (
    Difference,
    Run,
    adaptive_steps,
    differences,
    only_one,
    pair,
)
from servax.report.pictures import Picture
from servax.report.resampling import RESAMPLES, SEED
from servax.report.style import png
from servax.report.versus_figure import difference_plot
from servax.report.write import ReportPaths, write_content

__all__ = ["compare", "difference_table", "settings_table", "write_comparison"]

_TITLE = "UAR (%) of both runs and their difference"


def write_comparison(
    a: Records, b: Records, folder: str | Path, *, names: tuple[str, str]
) -> tuple[TextTable, ReportPaths]:
    """Write a report on two runs into `folder`.

    Args:
        a: The first run.
        b: The second; differences are B − A.
        folder: Made when it does not exist; files of an earlier report are replaced.
        names: How the two are called.

    Returns:
        The table of differences, and the paths written.

    Raises:
        ServaxError: They cannot be compared (`servax.report.pairing.pair`).
    """
    content = compare(*pair(a, b, names=names))
    return content.tables[0], write_content(content, Path(folder))


def compare(a: Run, b: Run) -> Content:
    """Return the report on two runs."""
    found = differences(a, b)
    table = difference_table(a, b, found)
    settings = settings_table(a, b)
    picture = Picture(
        "differences",
        "B − A by defence",
        f"Difference in UAR points, {b.name} (B) minus {a.name} (A), with 95 % intervals over "
        "speakers where both hold the same utterances. Right of the line B is better.",
        png(difference_plot(found)),
    )
    return Content(
        title=f"servax report: {b.name} against {a.name}",
        verdict=tuple(_verdict(a, b, found)),
        header=tuple(_header(a, b)),
        tables=(table, settings),
        appendix=(),
        pictures=(picture,),
        definitions=(
            "UAR is the mean of the per-class recalls, in percent, with the predictions of all "
            "folds pooled. Differences are in points, B − A.",
            "FGSM mean and PGD mean are oblivious attacks over the intensities that both runs "
            "hold; adaptive PGD takes gradients through the defence.",
            f"Intervals are 95 % percentile bootstraps of the difference ({RESAMPLES} draws, seed "
            f"{SEED}): whole speakers are drawn, the same in both runs; of fewer than "
            f"{FEWEST_SPEAKERS} there are none. Bold: the interval does "
            "not hold 0. Intervals are not adjusted for their number, and take the trained models "
            "as given: a run with another seed moves too.",
        ),
    )


def difference_table(a: Run, b: Run, found: Sequence[Difference]) -> TextTable:
    """Return A, B, B − A and its interval: one row for each defence and measure."""
    rows = tuple(
        (
            Cell(each.defence),
            Cell(each.measure),
            Cell(wording.percentage(each.a)),
            Cell(wording.percentage(each.b)),
            Cell(wording.signed(each.difference), best=_sure(each)),
            Cell(_interval(each)),
        )
        for each in found
    )
    return TextTable(
        title=_TITLE,
        note=f"A is {a.name}, B is {b.name}. Bold: the 95 % interval over speakers does not hold "
        "0. No difference where the two are not the same measurement, no interval where the runs "
        "hold other utterances.",
        head=tuple(map(Head, ("defence", "measure", "A", "B", "B − A", "95 % interval"))),
        rows=rows,
        name="differences",
        numbers=pd.DataFrame(
            [
                {
                    "defence": each.defence,
                    "measure": each.measure,
                    "a_percent": each.a,
                    "b_percent": each.b,
                    "difference_points": each.difference,
                    "low_points": each.interval.low,
                    "high_points": each.interval.high,
                }
                for each in found
            ]
        ),
    )


def _sure(each: Difference) -> bool:
    return each.interval.low > 0 or each.interval.high < 0


def _interval(each: Difference) -> str:
    if math.isnan(each.interval.low):
        return wording.MISSING
    return f"[{wording.signed(each.interval.low)}, {wording.signed(each.interval.high)}]"


def _verdict(a: Run, b: Run, found: Sequence[Difference]) -> list[str]:
    judged = [each for each in found if not math.isnan(each.interval.low)]
    sure = sorted(filter(_sure, judged), key=lambda each: -abs(each.difference))
    first = (
        f"From {a.name} (A) to {b.name} (B), the 95 % interval over speakers holds no 0 for "
        f"{len(sure)} of {len(judged)} differences"
    )
    told = [f"{e.defence} {wording.signed(e.difference)} ({e.measure})" for e in sure[:5]]
    sentences = [f"{first}; the largest: {', '.join(told)}." if told else f"{first}."]
    if few := no_interval(len(set(a.outcomes.speakers.tolist()))):
        sentences.append(few)
    if a.spoken != b.spoken:
        sentences.append(
            f"The runs hold different utterances ({len(a.spoken)} and {len(b.spoken)}), so there "
            "are no paired intervals."
        )
    steps = adaptive_steps(a, b)
    if all(steps) and steps[0] != steps[1]:
        sentences.append(
            f"A was attacked adaptively with PGD-{steps[0]}, B with PGD-{steps[1]}: the two are "
            "shown, and not compared."
        )
    for here, there, defences in zip("AB", "BA", only_one(a, b), strict=True):
        if defences:
            sentences.append(f"Only in {here}, not in {there}: {', '.join(defences)}.")
    for name in ("scale", "attacks"):
        if a.provenance.get(name) != b.provenance.get(name):
            sentences.append(
                f"They differ in {'the scale' if name == 'scale' else 'the attack settings'} "
                f"({wording.setting(a.provenance.get(name, wording.NOT_RECORDED))} and "
                f"{wording.setting(b.provenance.get(name, wording.NOT_RECORDED))}), so an attack "
                "of one name need not be the same attack."
            )
    return sentences


def _header(a: Run, b: Run) -> list[tuple[str, str]]:
    rows = [("A", a.name), ("B", b.name), ("corpus", a.outcomes.corpus)]
    for letter, run in (("A", a), ("B", b)):
        for name in ("command", "commit", "machine"):
            told = wording.setting(run.provenance.get(name, wording.NOT_RECORDED))
            rows.append((f"{letter}: {name}", told))
    return rows


def settings_table(a: Run, b: Run) -> TextTable:
    """Return every setting of the two recipes that differs, and what else the runs do not share."""
    here, there = _settings(a), _settings(b)
    changed = [key for key in dict.fromkeys((*here, *there)) if here.get(key) != there.get(key)]
    recorded = [isinstance(run.provenance.get("settings"), Mapping) for run in (a, b)]
    note = "" if changed else "None that is recorded."
    if not all(recorded):
        note = f"{note} The records of {'A' if not recorded[0] else 'B'} do not hold the recipe."
    return TextTable(
        title="Settings that differ",
        note=note.strip(),
        head=(Head("setting"), Head("A"), Head("B")),
        rows=tuple(
            (
                Cell(key),
                *(Cell(side.get(key, wording.MISSING)) for side in (here, there)),
            )
            for key in changed
        ),
        name="settings",
        numbers=pd.DataFrame(
            [(key, here.get(key, ""), there.get(key, "")) for key in changed],
            columns=["setting", "a", "b"],
        ),
    )


def _settings(run: Run) -> dict[str, str]:
    """Return dotted name → value as JSON, of the recipe and of what decides a result beside it."""
    outcomes = run.outcomes
    told: dict[str, Any] = {"target": outcomes.target, "seeds": list(outcomes.seeds)}
    told |= {key: run.provenance[key] for key in ("recipe", "servax") if key in run.provenance}
    recipe = run.provenance.get("settings")
    if isinstance(recipe, Mapping):
        # The name of a recipe stands in `recipe`, its seeds in `seeds`.
        told |= {key: part for key, part in recipe.items() if key not in ("name", "seed", "seeds")}
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
