"""Does the engine still say the same? Runs two checkouts side by side and compares their rows.

``python .ci/same_rows.py REVISION FOLDER`` makes a worktree of REVISION, and runs in it and in this
checkout, one thread each: the demo, ``recipes/synthetic_paper.yaml`` and a smoke audit of the
packaged recogniser behind three defences. Every table of records has to hold the same rows in the
columns that both know, and every stage of the two runs has to have the same key. What is in FOLDER
already is not computed again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parents[1]
COMMANDS = {
    "demo": ["demo"],
    "paper": ["run", "recipes/synthetic_paper.yaml"],
    "audit": [
        *("audit", "crnn-synthetic", "--corpus", "synthetic", "--tier", "smoke", "--defences"),
        "ssad-plus-synthetic,gaussian-noise:0.02,quantise:4",
    ],
}
KEYS = ["utterance", "fold", "seed", "target", "defence", "attack", "strength", "knowledge"]


def run(checkout: Path, name: str, out: Path) -> None:
    """Run one command of a checkout into a folder, where it is not there yet."""
    if not (out / "report" / "report.md").is_file():
        settings = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "servax", *COMMANDS[name], "--out", str(out)]
        with (out.parent / f"{name}.log").open("w") as log:
            subprocess.run(
                command, cwd=checkout, env=os.environ | settings, stdout=log, stderr=log, check=True
            )


def rows(folder: Path) -> pd.DataFrame:
    """Return all rows of a run in one order."""
    tables = [pd.read_parquet(file) for file in sorted(folder.glob("records/*.parquet"))]
    return pd.concat(tables, ignore_index=True).sort_values(KEYS, ignore_index=True)


def keys(folder: Path) -> list[str]:
    """Return the keys of all stages that are done."""
    return sorted(file.parent.name for file in folder.glob("stages/*/done.json"))


def different(old: Path, new: Path) -> list[str]:
    """Return what differs between two runs of one command."""
    before, after = rows(old), rows(new)
    shared = [name for name in before.columns if name in after.columns]
    found = [f"the column {name} is gone" for name in before.columns if name not in shared]
    if len(before) != len(after):
        return [*found, f"{len(before)} rows became {len(after)}"]
    for name in shared:
        count = int((before[name] != after[name]).sum())
        found += [f"{name} differs in {count} of {len(before)} rows"] * bool(count)
    if old.name != "audit" and keys(old) != keys(new):
        found.append(f"stages have other keys: {sorted(set(keys(old)) ^ set(keys(new)))[:4]} …")
    return found


def main(revision: str, folder: str) -> int:
    """Compare, and say what differs, as JSON; the exit code is 1 where anything does."""
    place = Path(folder).resolve()
    sides = {"old": place / "checkout", "new": HERE}
    if not sides["old"].is_dir():
        subprocess.run(
            ["git", "worktree", "add", "--detach", str(sides["old"]), revision],
            cwd=HERE,
            check=True,
        )
    for side, checkout in sides.items():
        (place / side).mkdir(parents=True, exist_ok=True)
        for name in COMMANDS:
            run(checkout, name, place / side / name)
    told = {name: different(place / "old" / name, place / "new" / name) for name in COMMANDS}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    return int(any(told.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
