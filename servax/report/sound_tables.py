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

from servax.evaluation.records import SINCE_VERSION_2
from servax.perturbation import ratio_of
from servax.report.figures import ratio_curves
from servax.report.measures import Measures, percent
from servax.report.predictions import CLEAN, UNDEFENDED, Condition
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
    with_interval,
)

WORST = "worst"
ATTACKERS: Mapping[str, tuple[str, ...]] = {
    "oblivious": ("oblivious",),
    "transfer": ("transfer",),
    "black_box": ("black_box",),
    "adaptive": ("adaptive", "bpda"),
    WORST: ("oblivious", "transfer", "black_box", "bpda", "adaptive"),
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
    if told["space"] != "waveform" or told["norm"] != "l2" or told["epsilon"] <= 0:
        return None
    return round(ratio_of(told["epsilon"]), 6)


def frame_of(run: Measures) -> pd.DataFrame:
    """Return UAR for each defence, kind of attacker and budget, one row each (tidy).

    Returns:
        Columns ``defence``, ``attacker``, ``snr_db`` (infinite on clean input), ``column`` (both,
        the key of tables), ``uar_percent``, ``low_percent`` and ``high_percent`` (95 % over
        speakers), ``over_clean`` (share of the defence's own clean UAR) and ``attacks``.
    """
    rows: list[dict[str, Any]] = []
    found = run.found
    for defence in run.defences:
        clean = percent(found.labels, found.cells[defence, CLEAN][None])
        rows.append(_row(run, defence, "none", math.inf, [CLEAN], clean))
        cells = [c for name, c in found.cells if name == defence and c != CLEAN]
        for attacker, knowledge in ATTACKERS.items():
            known = [c for c in cells if c.knowledge in knowledge]
            for snr in sorted({_ratio(c) or 0.0 for c in known}, reverse=True):
                # What moved less lies within, no change at all too.
                at = [CLEAN, *(c for c in known if (_ratio(c) or 0.0) >= snr)]
                rows.append(_row(run, defence, attacker, snr, at, clean))
    return pd.DataFrame(rows)


def _row(
    run: Measures, defence: str, attacker: str, snr: float, at: list[Condition], clean: float
) -> dict[str, Any]:
    answers = run.found.worst(defence, at)
    assert answers is not None
    uar = percent(run.found.labels, answers[None])
    low, high = run.found.interval(answers[None], times=100)
    return {
        "defence": defence,
        "attacker": attacker,
        "snr_db": snr,
        "column": (attacker, snr),
        "uar_percent": uar,
        "low_percent": low,
        "high_percent": high,
        "over_clean": uar / clean if clean else math.nan,
        "attacks": len({c.attack for c in at} - {CLEAN.attack}),
    }


def sound_tables(run: Measures) -> Iterator[Table]:
    """Yield the tables of a run on sound, the worst of all attackers first."""
    frame = frame_of(run)
    for attacker in (WORST, "adaptive", "oblivious", "transfer", "black_box"):
        part = frame[frame["attacker"].isin([attacker, "none"])]
        if set(part["attacker"]) == {"none"}:
            continue
        yield _table(run, part, attacker)
    if run.found.draws is not None:
        yield _intervals(run, frame[frame["attacker"].isin([WORST, "none"])])


def _table(run: Measures, part: pd.DataFrame, attacker: str) -> Table:
    def text(row: Row) -> Cell:
        kept = "" if row["attacker"] == "none" else f"{100 * row['over_clean']:.0f} % kept"
        return Cell(percentage(row["uar_percent"]), detail=kept)

    names = {WORST: "table-1", "adaptive": "table-1-adaptive"}
    return pivot(
        part.round({"uar_percent": 1}),
        [Field(_head(*key), text, key, "uar_percent") for key in _columns(part)],
        rows=run.defences,
        title=f"UAR (%) under attack on sound {TITLES[attacker]}",
        note="An utterance counts as wrong where any of the attacks at that signal-to-noise ratio, "
        "or at a higher one, or none at all turns it wrong. Below a number: the share of the "
        "defence's own clean UAR that is kept. Bold: the best defence of a column.",
        name=names.get(attacker, f"table-1-{attacker.replace('_', '-')}"),
        numbers=part.drop(columns="column"),
    )


def _intervals(run: Measures, part: pd.DataFrame) -> Table:
    def text(row: Row) -> str:
        return with_interval(row["uar_percent"], row["low_percent"], row["high_percent"])

    speakers = len(set(run.found.speakers.tolist()))
    return pivot(
        part,
        [Field(_head(*key), text, key) for key in _columns(part)],
        rows=run.defences,
        title="UAR (%) by the worst of all, with 95 % intervals over speakers",
        note=f"Speakers are resampled, not utterances; there are {speakers} of them.",
        name="intervals",
        numbers=part.drop(columns="column"),
    )


def _columns(part: pd.DataFrame) -> list[tuple[str, float]]:
    keys = set(part["column"])
    return sorted(keys, key=lambda key: -key[1])


def _head(attacker: str, snr: float) -> Head:
    return Head("clean" if attacker == "none" else f"{snr:g} dB")


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
    return ratio_curves(panels, among=run.defences, classes=len(run.found.classes), ticks=ticks)
