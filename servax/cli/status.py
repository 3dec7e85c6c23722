"""How far a run or an audit is: bars, and the stages that ``--dry-run`` and ``--status`` show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from servax.cli.output import bar, duration, print_json, print_table, progress_bars
from servax.experiments import AnyRecipe
from servax.experiments.estimate import (
    Overview,
    Pace,
    Row,
    rehearse,
    survey,
)
from servax.experiments.fold import RunData
from servax.experiments.run import Plan
from servax.stages import Watcher

NAMES_SHOWN = 3
"""Of the stages that one stage needs; an attack on all defences needs dozens."""


def show(recipe: AnyRecipe, shown: str, folder: Path, *, status: bool, as_json: bool) -> int:
    """Show the stages of a recipe's run; nothing is written into its folder.

    Args:
        recipe: The recipe.
        shown: The run as people see it.
        folder: Its folder; of a run behind a URL, the stages that are on this machine are shown.
        status: Show how far the run is; else what running it would do, and how long it may take.
        as_json: Print JSON.
    """
    with run_bars() as bars:
        plan = Plan.of(RunData.of(recipe, folder, bars), {})
    overview = survey(plan)
    pace, how = overview.pace, "at the pace of the stages that are done"
    measured = not status and overview.seconds_left() is None
    if measured:
        with bar("timing a few steps of each kind of stage") as update:
            pace = rehearse(plan, tick=update)
        how = f"by a few steps of {len(pace.speeds)} kinds of stages (measured now)"
    if as_json:
        print_json(_as_data(overview, pace, shown, measured=measured))
        return 0
    title = f"{shown}: {_summary(overview, pace, how)}"
    columns, row = (STATUS, status_row) if status else (DRY_RUN, dry_run_row)
    print_table(title, columns, [row(r, pace) for r in overview.rows])
    return 0


DRY_RUN = ("stage", "kind", "needs", "state", "time left")
STATUS = ("stage", "kind", "state", "time", "result or last epoch")


def dry_run_row(row: Row, pace: Pace) -> Sequence[str]:
    """Return what `--dry-run` shows of a stage."""
    state = {"done": "cached", "running": "running"}.get(row.state, "to do")
    if row.epoch and row.state != "done":
        state = f"resumable from epoch {row.epoch + 1} of {row.epochs}"
    left = "" if row.state == "done" else duration(pace.seconds(row))
    return (row.stage, row.kind, _needed(row), state, left)


def status_row(row: Row, pace: Pace) -> Sequence[str]:
    """Return what `--status` shows of a stage: its time, or what is left of it."""
    took = row.seconds if row.state == "done" else pace.seconds(row)
    state = {"begun": "stopped"}.get(row.state, row.state)
    left = "" if row.state == "done" else " left"
    return (row.stage, row.kind, state, f"{duration(took)}{left}", _outcome(row))


def _needed(row: Row) -> str:
    """Return the names of the stages that one needs, without what they share with its own."""
    shared = row.stage.rpartition(": ")[0] + ": "
    names = [name.removeprefix(shared) for name in dict.fromkeys(row.needs)]
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _outcome(row: Row) -> str:
    terms = ", ".join(f"{name} {value:.3f}" for name, value in row.terms.items())
    if row.kind == "attack":
        rows = row.result.get("rows")
        return str(row.result.get("title", "" if rows is None else f"{rows} rows"))
    if row.state == "done":
        kept = f"epoch {row.result['best_epoch'] + 1} of {row.epoch}" if row.epoch else ""
        return ": ".join(part for part in (kept, terms) if part)
    told = f"epoch {row.epoch + 1} of {row.epochs}" if row.state == "running" else ""
    if row.epoch:
        told = ", ".join(part for part in (told, f"{row.epoch} done: {terms}") if part)
    return told


def _summary(overview: Overview, pace: Pace, how: str) -> str:
    rows = overview.rows
    done = sum(row.state == "done" for row in rows)
    told = f"{done} of {len(rows)} stages done, {100 * overview.share:.0f} % of the expected work"
    if done == len(rows):
        return told
    if overview.holder is not None:
        told += f"; {overview.holder} is at work"
    left = overview.seconds_left(pace)
    if left is None:
        return told + "; the time left is not known before a stage is done"
    return f"{told}; at most about {duration(left)} left in one process, {how}"


def _as_data(overview: Overview, pace: Pace, shown: str, *, measured: bool) -> dict[str, Any]:
    return {
        "run": shown,
        "share_done": overview.share,
        "seconds_left": overview.seconds_left(pace),
        "measured": measured,
        "at_work": None if overview.holder is None else str(overview.holder),
        "stages": [asdict(row) | {"seconds_left": pace.seconds(row)} for row in overview.rows],
    }


@contextmanager
def run_bars() -> Iterator[RunBars]:
    """Show the bars of a run while the block runs."""
    with progress_bars() as progress:
        yield RunBars(progress)


class RunBars(Watcher):
    """Bars of a run: the whole with its estimate, and the stages at work.

    The estimate weighs each stage by its expected cost and learns the speed of this machine from
    what is done.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._costs: dict[str, float] = {}
        self._whole: TaskID | None = None
        self._total = 0.0
        self._at_work: dict[str, _Bar] = {}

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        """Open the bar of the whole run."""
        self._costs = dict(stages)
        self._total = sum(self._costs.values())
        self._whole = self._progress.add_task(
            "whole run", total=self._total, note=f"{len(stages)} stages"
        )

    def start(self, stage: str, steps: int) -> None:
        """Open the bar of a stage."""
        bar = self._progress.add_task(stage, total=steps, note="")
        self._at_work[stage] = _Bar(bar, self._costs.get(stage, 0.0) / max(1, steps))

    def advance(self, note: str = "", stage: str | None = None) -> None:
        """Move the bars of a stage and of the whole by one step."""
        bar = self._at_work.get(stage or next(reversed(self._at_work), ""))
        if bar is None:
            return
        self._progress.update(bar.task, advance=1, note=note)
        if self._whole is not None:
            self._progress.update(self._whole, advance=bar.share)
            bar.spent += bar.share

    def finish(self, stage: str, *, cached: bool) -> None:
        """Close the bar of a stage; early stopping gives its time back to the whole."""
        bar = self._at_work.pop(stage, None)
        if self._whole is not None:
            # Work that is not done takes no time: it leaves the total instead of counting as done.
            rest = self._costs.get(stage, 0.0) - (bar.spent if bar else 0.0)
            self._total = max(0.0, self._total - rest)
            self._progress.update(self._whole, total=self._total)
        if bar is not None:
            self._progress.remove_task(bar.task)
        self._progress.console.print(f"{stage}: {'already done' if cached else 'done'}")


@dataclass
class _Bar:
    """The bar of a stage at work."""

    task: TaskID
    share: float
    """Cost of one step."""
    spent: float = 0.0
    """Cost of the steps that are done."""
