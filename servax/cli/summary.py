"""What became of many files: watched while it happens, and every file accounted for at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servax.bulk.folders import MOST_NAMES
from servax.bulk.orders import Outcome, Plan
from servax.cli.output import bar, say
from servax.errors import AudioError

STATUSES = ("done", "skipped", "failed", "not_sound")


def refuse_existing(plan: Plan, source: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there, where one file was asked for: none would be done.

    Raises:
        AudioError: Its target is there.
    """
    if source.is_file() and not plan.rows and not overwrite:
        for order in plan.orders:
            if Path(order.target).exists():
                raise AudioError(order.target, "is there already; add --overwrite to replace it")


def watched(title: str, plan: Plan, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return what became of every file of a plan, by name, and show how far it is meanwhile."""
    told = []
    with bar(title) as update:
        update(0, len(plan.orders))
        for outcome in outcomes:
            told.append(outcome)
            update(len(told), len(plan.orders))
    return sorted([*plan.told, *told], key=lambda each: each.source)


def counts(told: Sequence[Outcome]) -> dict[str, int]:
    """Return how many files came to each end; together they are all that were seen."""
    return {status: sum(each.status == status for each in told) for status in STATUSES}


def as_data(plan: Plan, told: Sequence[Outcome]) -> dict[str, Any]:
    """Return the counts, what was not read, and what became of each file, for JSON."""
    return {**counts(told), "notes": plan.notes, "files": [asdict(each) for each in told]}


def end(plan: Plan, told: Sequence[Outcome], target: Path) -> int:
    """Say what failed, what was no sound and how many files there were; return the exit code."""
    for each in told:
        if each.status == "failed":
            say(f"failed: {each.sentence}")
    count = counts(told)
    others = [Path(each.source) for each in told if each.status == "not_sound"]
    if others:
        say(f"not sound, by ending: {_by_ending(others)}")
    for note in plan.notes:
        say(note)
    more = f", {count['not_sound']} not sound" if others else ""
    done = f"{count['done']} done, {count['skipped']} skipped, {count['failed']} failed"
    say(f"{done}{more}: {target}")
    return 1 if count["failed"] else 0


def _by_ending(files: Sequence[Path]) -> str:
    """Return ``2 .m4a (a.m4a, b.m4a), 1 .txt (read me.txt)``."""
    endings: dict[str, list[str]] = {}
    for file in files:
        endings.setdefault(file.suffix.lower() or "without one", []).append(file.name)
    return ", ".join(
        f"{len(names)} {ending} ({', '.join(names[:MOST_NAMES])}"
        f"{', …' if len(names) > MOST_NAMES else ''})"
        for ending, names in sorted(endings.items())
    )
