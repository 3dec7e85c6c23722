"""How time grows with utterances, frames and attack steps: the slope on two logarithmic axes.

A slope of 1 is proportional; below 1, fixed costs are shared out. Utterances: features of a corpus,
from files to the cache. Frames: the purifier on one spectrogram. Steps: PGD on a recogniser. Each
size is timed in turns with the others.

    python benchmarks/growth.py --threads 1
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from clips import waveforms
from harness import Defaults, Row, Times, parser, race, write

from servax.attacks import PGD
from servax.corpora import load
from servax.features import FrontEnd, extract
from servax.models import VGG16, frozen
from servax.pretrained import PURIFIER
from servax.purifier import Purifier

LARGEST_SLOPE = 1.05
UTTERANCES = (84, 168, 336, 672)
FRAMES = (373, 746, 1492, 2984)
SECONDS = (6, 24, 96, 384)
STEPS = (5, 10, 20, 40)


def main() -> int:
    """Time all sizes; 0 when no slope is above the target."""
    given = parser(__doc__.splitlines()[0], Defaults(threads=1)).parse_args()
    torch.set_num_threads(given.threads)
    times: dict[str, Times] = {}
    rows = []
    with tempfile.TemporaryDirectory(prefix="servax-growth-") as folder:
        for name, sizes, runs in (
            ("utterances, features from files to the cache", UTTERANCES, _features(Path(folder))),
            ("frames, purifier on a spectrogram", FRAMES, _frames()),
            ("seconds, purifier on sound", SECONDS, _seconds()),
            ("steps, PGD on VGG-16 of width 16", STEPS, _steps()),
        ):
            took = race(dict(zip(map(str, sizes), runs, strict=True)), rounds=given.rounds)
            times |= {f"{name}: {size}": each for size, each in took.items()}
            rows.append(_row(name, sizes, [each.seconds.median for each in took.values()]))
    write("growth", rows, times=times, folder=given.results)
    return 0 if all(row.met for row in rows) else 1


def _row(name: str, sizes: tuple[int, ...], seconds: list[float]) -> Row:
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    return Row(
        what=f"growth with {name}: {sizes[0]} to {sizes[-1]}",
        against="slope 1, proportional",
        target=f"slope ≤ {LARGEST_SLOPE:g}",
        measured=f"{slope:.3f} ({seconds[0]:.3g} to {seconds[-1]:.3g} s)",
        met=slope <= LARGEST_SLOPE,
    )


def _features(folder: Path) -> list[Callable[[], object]]:
    corpus = load("ravdess", scheme="four")

    def run(count: int) -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        chosen = np.arange(len(corpus)) < count
        extract(corpus.subset(chosen), FrontEnd(), folder=folder / "cache")

    return [lambda n=count: run(n) for count in UTTERANCES]


def _frames() -> list[Callable[[], object]]:
    purifier = Purifier.from_pretrained(PURIFIER).frozen()
    inputs = [torch.rand(1, 1, 64, frames) for frames in FRAMES]

    @torch.inference_mode()
    def run(x: torch.Tensor) -> None:
        for _ in range(4):
            purifier(x)

    return [lambda x=x: run(x) for x in inputs]


def _seconds() -> list[Callable[[], object]]:
    purifier = Purifier.from_pretrained(PURIFIER).frozen()
    sound = np.concatenate(waveforms(max(SECONDS) // 3))
    return [lambda n=s: purifier.purify(sound[: n * 16_000], 16_000) for s in SECONDS]


def _steps() -> list[Callable[[], object]]:
    torch.manual_seed(0)
    network = frozen(VGG16(4, 16))
    x, y = torch.rand(4, 1, 64, 373), torch.arange(4)
    return [lambda k=k: PGD(step=0.003, epsilon=0.02, steps=k)(network, x, y) for k in STEPS]


if __name__ == "__main__":
    sys.exit(main())
