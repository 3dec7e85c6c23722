"""The ``manifest.csv`` beside what became of a manifest: the same columns, the new files."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from servax.bulk.orders import MANIFEST, Outcome, Plan
from servax.errors import PathError, unwritable
from servax.files import whole_file

COLUMNS = ["path", "label", "speaker", "gender", "session", "text", "utterance"]


def write_manifest(plan: Plan, told: Iterable[Outcome], out: Path) -> None:
    """Write the table of what lies purified in `out`; of a row that failed there is none.

    Args:
        plan: What `plan_purification` made of a manifest.
        told: What became of it.
        out: Folder of the targets and of the new manifest.

    Raises:
        PathError: The table cannot be written.
    """
    there = {each.target for each in told if each.status in ("done", "skipped")}
    table = out / MANIFEST
    if not there and not os.path.exists(table):  # noqa: PTH110
        return
    try:
        with (
            whole_file(table) as part,
            part.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row, target in plan.rows:
                if target in there:
                    told_of = (row.gender, row.session, row.text, row.utterance)
                    writer.writerow([_listed(target, out), row.emotion, row.speaker, *told_of])
    except OSError as error:
        raise PathError(table, unwritable(error)) from None


def check_manifest(plan: Plan, out: Path) -> None:
    """Refuse to replace a table that is not of these utterances.

    Args:
        plan: What `plan_purification` made of a manifest.
        out: Folder of the targets and of the new manifest.

    Raises:
        PathError: The ``manifest.csv`` there has other columns, or names files that are no targets.
    """
    table = out / MANIFEST
    if not os.path.isfile(table):  # noqa: PTH113
        return
    known = {_listed(target, out) for _, target in plan.rows}
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            own = next(rows, None) == COLUMNS and all(row and row[0] in known for row in rows)
    except (OSError, ValueError, csv.Error):
        own = False
    if not own:
        reason = "is there, and is no table of these utterances; give another folder"
        raise PathError(table, f"{reason}, or add --overwrite to replace it")


def _listed(target: str, out: Path) -> str:
    """Return how the manifest in `out` names a target."""
    return Path(target).relative_to(out).as_posix()
