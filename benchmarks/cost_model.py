"""What ``servax run --dry-run`` foretells beside what the run then takes.

From an empty cache and an empty folder: the dry run (which fills the cache, as it says), then the
run itself, timed from its first import to its report. Trainings do not stop early in these recipes,
since an estimate is an upper bound there.

``--paper`` runs nothing: it estimates recipes/ravdess_paper.yaml on this machine from the measured
time of a training step and the costs of the stages in steps.

    python benchmarks/cost_model.py
    python benchmarks/cost_model.py --paper
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clips import environment
from harness import Row, parser, write

LARGEST_ERROR = 0.30
PAPER = Path(__file__).parent.parent / "recipes" / "ravdess_paper.yaml"
RECIPES = {
    "ravdess-w8": """
name: ravdess-w8
corpus: {name: ravdess, scheme: four}
groups: 6
held_out: [1]
width: 8
recogniser: {epochs: 3, patience: 3}
purifiers:
  ssad: {epochs: 2, warmup_steps: 30, ssa: {steps: 3}}
attacks: {steps: 8, adaptive_steps: 8}
controls: {quantise_bits: [4]}
""",
    "synthetic-w8": """
name: synthetic-w8
corpus: {name: synthetic, scheme: four}
groups: 6
held_out: [1]
width: 8
front_end: {frames: 187}
recogniser: {epochs: 6, patience: 6}
purifiers:
  ssad: {epochs: 3, warmup_steps: 30, ssa: {steps: 3}}
adversarial:
  objectives: [vanilla, trades]
  epsilons: [0.003, 0.006]
  training: {iterations: 40, plain_iterations: 20}
attacks: {steps: 10, adaptive_steps: 10}
""",
}


def main() -> int:
    """Foretell and run; 0 when each estimate is within the target."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--recipes", nargs="+", default=list(RECIPES), help="which")
    options.add_argument("--paper", action="store_true", help="estimate the paper's recipe alone")
    given = options.parse_args()
    if given.paper:
        return _paper(given.results)
    near = []
    for name in given.recipes:
        found = _compared(RECIPES[name])
        row = _row(name, found)
        near.append(row.met)
        write(f"cost_model-{name}", [row], folder=given.results, run=found)
    return 0 if all(near) else 1


def _compared(recipe: str) -> dict[str, Any]:
    """Return the estimate and the time of one run, in seconds."""
    with tempfile.TemporaryDirectory(prefix="servax-cost-") as folder:
        home = Path(folder)
        (home / "recipe.yaml").write_text(recipe, encoding="utf-8")
        common = [str(home / "recipe.yaml"), "-o", str(home / "run")]
        began = time.perf_counter()
        told = _servax(home, "run", *common, "--dry-run", "--json")
        foretelling = time.perf_counter() - began
        overview = json.loads(told)
        began = time.perf_counter()
        _servax(home, "run", *common)
        took = time.perf_counter() - began
        status = json.loads(_servax(home, "run", *common, "--status", "--json"))
    return {
        "estimate": overview["seconds_left"],
        "took": took,
        "dry_run": foretelling,
        "stages": {
            each["stage"]: {"estimate": each["seconds_left"], "took": after["seconds"]}
            for each, after in zip(overview["stages"], status["stages"], strict=True)
        },
    }


def _servax(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "servax", *arguments],
        env=environment(SERVAX_CACHE=str(home / "cache")),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr[-2_000:])
    return done.stdout


def _row(name: str, found: dict[str, Any]) -> Row:
    error = found["estimate"] / found["took"] - 1.0
    return Row(
        what=f"`servax run --dry-run` of {name} ({len(found['stages'])} stages)",
        against=f"the run: {found['took']:.0f} s",
        target=f"within {100 * LARGEST_ERROR:g} %",
        measured=f"{found['estimate']:.0f} s, {100 * error:+.0f} % (in {found['dry_run']:.0f} s)",
        met=abs(error) <= LARGEST_ERROR,
    )


def _paper(results: Path) -> int:
    """Estimate the paper's recipe and write it down, as an estimate."""
    command = [sys.executable, "-m", "servax", "run", str(PAPER), "-o", "/nonexistent"]
    done = subprocess.run(
        [*command, "--dry-run", "--json"],
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout)
    units = sum(stage["cost"] for stage in told["stages"])
    row = Row(
        what=f"recipes/ravdess_paper.yaml, {len(told['stages'])} stages: **an estimate**",
        against="—",
        target="under 30 min on one GPU",
        measured=f"{told['seconds_left'] / 86_400:.1f} days here at most, "
        f"{units:.3g} training steps of {told['seconds_left'] / units:.2f} s",
        met=None,
    )
    write("paper_time", [row], folder=results, seconds=told["seconds_left"], steps=units)
    return 0


if __name__ == "__main__":
    sys.exit(main())
