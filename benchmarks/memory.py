"""Memory of a whole run against the size of the corpus: features are mapped, not loaded.

The same recipe is run on manifests of RAVDESS recordings of growing size, each run in a process of
its own; a manifest of more than its 1,440 names them again through links, and each name is an
utterance with features of its own. What is told is the peak of memory that belongs to the process
alone (RssAnon of Linux); pages of the mapped feature file are the system's cache, which it takes
back when it needs to, and are told apart. Beside them stands what ``features in RAM twice`` would
add, which a reader of arrays does when it loads and scales them.

    python benchmarks/memory.py --sizes 480 4320
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from clips import environment
from harness import Row, parser, write

from servax.corpora import load

LARGEST_GROWTH = 0.25
"""Of one copy of the features that a larger corpus adds; the allocator alone moves the peak of two
runs of one corpus by some 60 MiB, so the sizes have to lie far apart."""
FRAMES, MELS = 373, 64
MIB = 2**20
RECIPE = """
name: memory
corpus: {{name: {manifest}, scheme: native}}
groups: 6
held_out: [1]
width: 8
recogniser: {{epochs: 1}}
purifiers:
  ssad: {{epochs: 1, warmup_steps: 1, ssa: {{steps: 1}}}}
controls: {{quantise_bits: [4]}}
attacks: {{epsilons: [0.003], steps: 2, adaptive_steps: 2}}
"""


def main() -> int:
    """Run the recipe at each size; 0 when memory does not grow with the corpus."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--sizes", type=int, nargs="+", default=[480, 4320], help="utterances")
    given = options.parse_args()
    found = []
    for size in sorted(given.sizes):
        found.append(_run(size))
        print(found[-1], file=sys.stderr, flush=True)
    small, large = found[0], found[-1]
    added = large["features_mib"] - small["features_mib"]
    grown = large["own_mib"] - small["own_mib"]
    row = Row(
        what=f"peak memory of a run, {small['utterances']} and {large['utterances']} utterances",
        against=f"features in RAM twice: + {2 * added:.0f} MiB",
        target="constant",
        measured=f"{small['own_mib']:.0f} and {large['own_mib']:.0f} MiB "
        f"({grown:+.0f} MiB; one copy would be {added:+.0f})",
        met=grown <= LARGEST_GROWTH * added,
    )
    write("memory", [row], folder=given.results, runs=found)
    return 0 if row.met else 1


def _run(size: int) -> dict[str, float]:
    """Return the peaks (MiB) of a run over `size` recordings."""
    with tempfile.TemporaryDirectory(prefix="servax-memory-") as folder:
        home = Path(folder)
        utterances = _manifest(home / "list.csv", size)
        recipe = home / "memory.yaml"
        recipe.write_text(RECIPE.format(manifest=home / "list.csv"), encoding="utf-8")
        command = [sys.executable, "-m", "servax", "run", str(recipe), "-o", str(home / "run")]
        with (home / "said").open("w", encoding="utf-8") as said:
            began = time.perf_counter()
            child = subprocess.Popen(
                command,
                env=environment(SERVAX_CACHE=str(home / "cache")),
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            own, mapped = _watched(child)
            seconds = time.perf_counter() - began
        if child.returncode:
            sys.exit((home / "said").read_text(encoding="utf-8")[-2_000:])
    return {
        "utterances": utterances,
        "features_mib": utterances * FRAMES * MELS * 4 / MIB,
        "own_mib": own / MIB,
        "mapped_mib": mapped / MIB,
        "seconds": seconds,
    }


def _watched(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Return the largest memory of a process while it runs: its own, and that of mapped files."""
    own = mapped = 0
    while child.poll() is None:
        try:
            text = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
        except OSError:
            break
        held = dict(line.split(":", 1) for line in text.splitlines())
        if "RssAnon" in held:
            own = max(own, 1024 * int(held["RssAnon"].split()[0]))
            mapped = max(mapped, 1024 * int(held["RssFile"].split()[0]))
        time.sleep(0.02)
    child.wait()
    return own, mapped


def _manifest(path: Path, size: int) -> int:
    """Write a manifest of about `size` recordings of all speakers; return how many there are."""
    corpus = load("ravdess", scheme="native")
    table = corpus.utterances
    copies = -(-size // len(table))
    every = size // copies
    # Evenly over speakers and labels, which the file names go through in order.
    rows = table.iloc[np.arange(every) * len(table) // every].to_dict("records")
    for copy in range(copies):
        (path.parent / f"copy{copy}").symlink_to(corpus.root, target_is_directory=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "speaker", "gender"])
        for copy in range(copies):
            for row in rows:
                sound = path.parent / f"copy{copy}" / str(row["path"])
                writer.writerow([sound, row["label"], row["speaker"], row["gender"]])
    return copies * len(rows)


if __name__ == "__main__":
    sys.exit(main())
