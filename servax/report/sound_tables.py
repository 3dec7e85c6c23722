"""The tables of a run on sound: who knows what, at which signal-to-noise ratio.

A budget is a ratio in dB, and at each the **worst** of all attacks within it counts per utterance:
one that any of them turns wrong is wrong. So a defence is never judged by the attack that suits it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from servax.evaluation.records import KNOWING, KNOWLEDGE, SINCE_VERSION_2, UNDEFENDED
from servax.perturbation import ratio_of
from servax.report.figures import size_curves
from servax.report.measures import Measures
from servax.report.predictions import CLEAN, Condition
from servax.report.run_tables import with_intervals
from servax.report.tables import (
    Cell,
    Field,
    Head,
    Row,
    Table,
    listed,
    percent_sign,
    percentage,
    pivot,
)

WORST = "worst"
ATTACKERS: Mapping[str, tuple[str, ...]] = {
    "oblivious": ("oblivious",),
    "transfer": ("transfer",),
    "black_box": ("black_box",),
    "adaptive": KNOWING,
    WORST: KNOWLEDGE[1:],
}
"""Which attackers stand together in a table."""
TITLES = {
    "oblivious": "by one who knows only the bare recogniser (oblivious)",
    "transfer": "by one who has another recogniser (transfer)",
    "black_box": "by one who asks the whole system (black box)",
    "adaptive": "by one who knows the whole system (adaptive)",
    WORST: "by the worst of all",
}


def on_sound(run: Measures) -> bool:
    """Return whether all attacks of a run changed sound, by budgets in dB."""
    attacked = {c for _, c in run.found.cells if c.attack != "none"}
    return bool(attacked) and all(_ratio(c) is not None for c in attacked)


def _ratio(condition: Condition) -> float | None:
    """Return the signal-to-noise ratio of a budget, in dB; none of one on log-Mel."""
    if not condition.settings:
        return None
    told = dict(zip(SINCE_VERSION_2, condition.settings, strict=True))
    if told["space"] != "waveform" or told["norm"] != "snr" or told["epsilon"] <= 0:
        return None
    return round(ratio_of(told["epsilon"]), 6)


def frame_of(run: Measures) -> pd.DataFrame:
    """Return UAR for each defence, kind of attacker and budget, one row each (tidy).

    Returns:
        Columns ``defence``, ``attacker``, ``snr_db`` (infinite on clean input), ``uar_percent``,
        ``low_percent`` and ``high_percent`` (95 % over speakers), ``over_clean`` (share of the
        defence's own clean UAR) and ``attacks``.
    """
    rows: list[tuple[Any, ...]] = []
    for defence in run.defences:
        tried = {("none", math.inf): [CLEAN]}
        sizes = {c: _ratio(c) or 0.0 for d, c in run.found.cells if d == defence and c != CLEAN}
        for attacker, knowledge in ATTACKERS.items():
            known = {c: size for c, size in sizes.items() if c.knowledge in knowledge}
            for snr in sorted(set(known.values()), reverse=True):
                # What moved less lies within, no change at all too.
                tried[attacker, snr] = [CLEAN, *(c for c, size in known.items() if size >= snr)]
        clean = run.found.standing(defence, [CLEAN], times=100).uar
        for which, at in tried.items():
            left = run.found.standing(defence, at, times=100)
            kept = left.uar / clean if clean else math.nan
            rows.append((defence, *which, left.uar, left.low, left.high, kept, len(left.attacks)))
    numbers = ["uar_percent", "low_percent", "high_percent", "over_clean", "attacks"]
    return pd.DataFrame(rows, columns=["defence", "attacker", "snr_db", *numbers])


def sound_tables(run: Measures) -> Iterator[Table]:
    """Yield the tables of a run on sound, the worst of all attackers first."""
    frame = frame_of(run)
    for attacker in (WORST, "adaptive", "oblivious", "transfer", "black_box"):
        part = frame[frame["attacker"].isin([attacker, "none"])]
        if set(part["attacker"]) != {"none"}:
            yield _table(run, part, attacker)
    if run.found.draws is not None:
        part = frame[frame["attacker"].isin([WORST, "none"])]
        title = "UAR (%) by the worst of all, with 95 % intervals over speakers"
        yield with_intervals(run, part, _heads(part), key="snr_db", title=title)


def _table(run: Measures, part: pd.DataFrame, attacker: str) -> Table:
    def text(row: Row) -> Cell:
        kept = "" if row["attacker"] == "none" else f"{100 * row['over_clean']:.0f} % kept"
        return Cell(percentage(row["uar_percent"]), detail=kept)

    names = {WORST: "table-1", "adaptive": "table-1-adaptive"}
    return pivot(
        part.round({"uar_percent": 1}),
        [Field(head, text, snr, "uar_percent") for snr, head in _heads(part).items()],
        key="snr_db",
        rows=run.defences,
        title=f"UAR (%) under attack on sound {TITLES[attacker]}",
        note="An utterance counts as wrong where any of the attacks at that signal-to-noise ratio, "
        "or at a higher one, or none at all turns it wrong. Below a number: the share of the "
        "defence's own clean UAR that is kept. Bold: the best defence of a column.",
        name=names.get(attacker, f"table-1-{attacker.replace('_', '-')}"),
        numbers=part,
    )


def _heads(part: pd.DataFrame) -> dict[float, Head]:
    """Return the heading of each budget, clean input and the quietest change first."""
    budgets = sorted(set(part["snr_db"]), reverse=True)
    return {snr: Head(f"{snr:g} dB" if math.isfinite(snr) else "clean") for snr in budgets}


def sound_verdict(run: Measures) -> list[str]:
    """Return the findings in sentences; the first says what the worst attacker leaves."""
    frame = frame_of(run).set_index(["defence", "attacker", "snr_db"])["uar_percent"]
    budgets = sorted({snr for _, attacker, snr in frame.index if attacker == WORST}, reverse=True)
    chance = percent_sign(100 / len(run.found.classes))

    def told(name: str) -> str:
        left = [
            f"{percent_sign(frame[name, WORST, snr])} at {snr:g} dB"
            for snr in budgets
            if (name, WORST, snr) in frame.index
        ]
        return f"{name} {listed(left)} (of {percent_sign(frame[name, 'none', math.inf])} clean)"

    middle = budgets[len(budgets) // 2]
    defences = [name for name in run.defences if name != UNDEFENDED]
    best = max(defences, key=lambda name: frame.get((name, WORST, middle), -1.0), default=None)
    start = "The worst of all attackers, the adaptive one among them, leaves "
    bare = f"without a defence {told(UNDEFENDED).removeprefix(UNDEFENDED + ' ')}"
    if best is None:
        return [f"{start}{bare}; chance is {chance}."]
    return [
        f"{start}{told(best)}, the best of {len(defences)} defences; {bare}. Chance is {chance}."
    ]


def ratio_figure(run: Measures) -> Figure:
    """Return UAR against the signal-to-noise ratio, oblivious beside the worst of all."""
    frame = frame_of(run)
    budgets = sorted({snr for snr in frame["snr_db"] if math.isfinite(snr)})
    panels = {
        title: {
            str(name): [
                (budgets.index(snr) if math.isfinite(snr) else len(budgets), value)
                for snr, value in zip(rows["snr_db"], rows["uar_percent"], strict=True)
            ]
            for name, rows in part.groupby("defence", sort=False)
        }
        for title, part in (
            ("oblivious", frame[frame["attacker"].isin(["oblivious", "none"])]),
            ("worst of all", frame[frame["attacker"].isin([WORST, "none"])]),
        )
    }
    ticks = [*(f"{snr:g}" for snr in budgets), "clean"]
    classes, words = len(run.found.classes), "signal-to-noise ratio of the attack (dB)"
    return size_curves(panels, among=run.defences, classes=classes, words=words, ticks=ticks)
