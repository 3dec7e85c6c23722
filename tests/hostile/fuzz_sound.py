"""Gives thousands of mutated sound files to the decoder and the purifier, and counts what came.

    python tests/hostile/fuzz_sound.py --mode body --mutants 10000 --out results/hostile/body.json

Takes a minute on one core. Nothing is repaired or skipped: a mutant ends in a refusal, in sound, or
in the list of faults; --keep keeps its bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from mutants import encoded, mutant
from numpy.typing import NDArray
from watched import Watched

from servax import audio
from servax.experiments.provenance import provenance

RECORDINGS = (
    "ravdess/Actor_01/03-01-01-01-01-01-01.wav",
    "fsdd/recordings/0_george_0.wav",
    "emodb/wav/03a01Fa.wav",
)
"""What is mutated where nobody says otherwise, below SERVAX_DATA."""
FAULTS = {"crash", "hang", "traceback", "unexpected_refusal", "not_finite_after"}
CLIP_SECONDS = 0.5


def recordings(names: list[str]) -> list[Path]:
    """Return the paths of recordings named below SERVAX_DATA, or from here."""
    return [Path(os.environ.get("SERVAX_DATA", "."), name) for name in names]


def clip_of(path: Path) -> NDArray[np.float32]:
    """Return half a second from the middle of a recording, at 16 kHz."""
    samples = audio.read(path)
    length = min(len(samples), round(CLIP_SECONDS * 16_000))
    start = (len(samples) - length) // 2
    return samples[start : start + length]


def seeds_of(paths: list[Path]) -> dict[str, bytes]:
    """Return the recordings in all containers, the first also as two channels of 8 kHz."""
    seeds = {}
    for number, path in enumerate(paths):
        clip = clip_of(path)
        seeds |= {f"{number}-{name}": body for name, body in encoded(clip, 16_000).items()}
        stereo = np.stack([clip[::2], clip[::2] / 2], axis=1)
        both = encoded(stereo, 8_000, (("WAV", "PCM_16"), ("FLAC", "PCM_16")))
        seeds |= {f"{number}-stereo-{name}": body for name, body in both.items()}
    return seeds


def attack(
    watched: Watched, seeds: dict[str, bytes], mutants: int, seed: int, keep: Path | None = None
) -> dict[str, Any]:
    """Return what became of the mutants `seed`, 0 … `mutants` - 1.

    Args:
        watched: Who gets them.
        seeds: Sound files by name.
        mutants: How many.
        seed: Names the run.
        keep: Folder for mutants that broke something.
    """
    counts: Counter[str] = Counter()
    containers: dict[str, Counter[str]] = {}
    faults: list[dict[str, Any]] = []
    slowest, rss, began = 0.0, watched.rss_ready, time.perf_counter()
    for number in range(mutants):
        name, sound = mutant(seeds, random.Random(f"{seed}/{number}"))
        said = watched.give(sound)
        counts[said["outcome"]] += 1
        containers.setdefault(name.split("-", 1)[1], Counter())[said["outcome"]] += 1
        slowest = max(slowest, said.get("seconds", 0.0))
        rss = max(rss, said.get("rss", 0))
        wrong = {key: said[key] for key in ("leak", "writes", "left") if said.get(key)}
        if said["outcome"] in FAULTS or wrong:
            faults.append({"number": number, "from": name, **said})
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.bin").write_bytes(sound)
        if sys.stderr.isatty() and number % 100 == 0:
            sys.stderr.write(f"\r{number} of {mutants}, {len(faults)} faults")
    return {
        "mutants": mutants,
        "seed": seed,
        "mode": watched.mode,
        "outcomes": dict(counts.most_common()),
        "by_container": {key: dict(each.most_common()) for key, each in containers.items()},
        "faults": faults,
        "complaints": watched.complaints(),
        "stray_files": watched.stray(),
        "starts": watched.starts,
        "seconds": round(time.perf_counter() - began, 1),
        "slowest_seconds": round(slowest, 3),
        "rss_ready_mib": round(watched.rss_ready / 2**20, 1),
        "rss_peak_mib": round(rss / 2**20, 1),
    }


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "recordings", nargs="*", default=RECORDINGS, help="sound files, below SERVAX_DATA"
    )
    parser.add_argument("--mode", choices=("body", "file"), default="body")
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--purifier", default="ssad-plus-synthetic")
    parser.add_argument("--keep", type=Path, help="folder for mutants that broke something")
    parser.add_argument("--out", type=Path, help="JSON record")
    given = parser.parse_args()
    seeds = seeds_of(recordings(given.recordings))
    with Watched(given.mode, given.purifier) as watched:
        record = attack(watched, seeds, given.mutants, given.seed, given.keep)
    record |= {
        "recordings": list(given.recordings),
        "purifier": given.purifier,
        "provenance": dict(provenance(shlex.join(["python", *sys.argv]))),
    }
    text = json.dumps(record, indent=2)
    sys.stdout.write(text + "\n")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
