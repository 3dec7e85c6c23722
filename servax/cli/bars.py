"""Progress of a run or an audit, with the time left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.progress import Progress, TaskID

from servax.cli.output import progress_bars
from servax.stages import Watcher


@contextmanager
def run_bars() -> Iterator[RunBars]:
    """Show the bars of a run while the block runs."""
    with progress_bars() as progress:
        yield RunBars(progress)


class RunBars(Watcher):
    """Bars of a run: the whole with its estimate, and the stage at work.

    The estimate weighs each stage by its expected cost and learns the speed of this machine from
    what is done.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._costs: dict[str, float] = {}
        self._whole: TaskID | None = None
        self._stage: TaskID | None = None
        self._total = 0.0
        self._share = 0.0
        self._spent = 0.0

    def plan(self, stages: Sequence[tuple[str, float]]) -> None:
        """Open the bar of the whole run."""
        self._costs = dict(stages)
        self._total = sum(self._costs.values())
        self._whole = self._progress.add_task(
            "whole run", total=self._total, note=f"{len(stages)} stages"
        )

    def start(self, stage: str, steps: int) -> None:
        """Open the bar of a stage."""
        self._stage = self._progress.add_task(stage, total=steps, note="")
        self._share, self._spent = self._costs.get(stage, 0.0) / max(1, steps), 0.0

    def advance(self, note: str = "") -> None:
        """Move both bars by one step."""
        if self._stage is not None:
            self._progress.update(self._stage, advance=1, note=note)
        if self._whole is not None:
            self._progress.update(self._whole, advance=self._share)
            self._spent += self._share

    def finish(self, stage: str, *, cached: bool) -> None:
        """Close the bar of a stage; early stopping gives its time back to the whole."""
        if self._whole is not None:
            rest = self._costs.get(stage, 0.0) - (0.0 if cached else self._spent)
            # Work that is not done takes no time: it leaves the total instead of counting as done.
            self._total = max(0.0, self._total - rest)
            self._progress.update(self._whole, total=self._total)
        if self._stage is not None:
            self._progress.remove_task(self._stage)
            self._stage = None
        self._progress.console.print(f"{stage}: {'already done' if cached else 'done'}")
