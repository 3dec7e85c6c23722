"""PGD on sound, through a speech encoder, by servax, foolbox and adversarial-robustness-toolbox.

All take the same steps from the same clean clips of one recogniser that hears waveforms; another
batch in each round. servax is timed to the end too, and as audits attack: who is fooled leaves the
batch (``early stop``). Beside them stand the gradients alone, one for each step (``floor``), and an
answer for each clip (``answers``). The accuracy left must be the same for all. Judged are seconds
of the processor, since the machine of the kept figures did other work too. They are of a recogniser
that was trained by

    servax train recogniser ravdess --encoder openai/whisper-tiny.en --held-out 1 -o runs/whisper

    python benchmarks/sound.py --model runs/whisper/model
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from clips import RATE, load_torchaudio
from harness import Row, Times, parser, race, ratio, write
from pgd import Run, by_art, by_foolbox
from subject import Batches, Turns, held_out
from torch import Tensor, nn

from servax.attacks import PGD
from servax.attacks.gradient import class_loss
from servax.audio import read
from servax.corpora import load
from servax.errors import ServaxError
from servax.models import classes_of
from servax.perturbation import input_gradient, into_16_bit
from servax.recognition import Recogniser

PACKAGES = ("foolbox", "adversarial-robustness-toolbox", "transformers")
TARGET = 1.3
"""How many times faster servax has to be than the fastest library."""
ATTACKED_SECONDS, ANSWERED_SECONDS = 180.0, 60.0
"""What PGD on 100 clips and answers to 1,000 may take."""


def batches(given: argparse.Namespace, recogniser: Recogniser) -> Batches:
    """Return batches of held-out clips (B, T), the middle of each, and their classes (B,)."""
    corpus = load(given.corpus, given.root, scheme="four")
    size, samples = given.batch_size, round(given.seconds * RATE)
    clips = held_out(corpus, groups=6, index=1, utterances=size * given.rounds)
    rows = []
    for _, path, start, end in clips.stretches:
        sound = read(path, sample_rate=RATE, start=start, end=end)
        sound = np.tile(sound, -(-samples // len(sound)))
        first = (len(sound) - samples) // 2
        rows.append(sound[first : first + samples])
    x = into_16_bit(torch.from_numpy(np.stack(rows)))
    y = torch.tensor([recogniser.labels.index(name) for name in clips.utterances["label"]])
    order = torch.arange(len(x)).view(size, -1).T
    return [(x[part], y[part]) for part in order]


def contenders(network: nn.Module, pgd: PGD) -> dict[str, Run]:
    """Return everyone who attacks, servax first, then the gradients and the answers alone."""

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(pgd.steps):
            input_gradient(class_loss(network, y), x)
        return x

    def answers(x: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode():
            network(x)
        return x

    return {
        "servax": lambda x, y: pgd(network, x, y),
        "servax early stop": lambda x, y: replace(pgd, early_stop=True)(network, x, y),
        "foolbox": by_foolbox(network, pgd),
        "art": by_art(network, pgd),
        "floor": gradients,
        "answers": answers,
    }


def accuracy(network: nn.Module, parts: Batches, moved: list[Tensor]) -> float:
    """Return the share (%) of right answers to inputs that stand for the batches."""
    with torch.inference_mode():
        right = [classes_of(network(z)) == y for z, (_, y) in zip(moved, parts, strict=True)]
    return 100.0 * float(torch.cat(right).float().mean())


def rows(given: argparse.Namespace, times: dict[str, Times], left: dict[str, float]) -> list[Row]:
    """Return the rows of the attack and of the answers."""
    ours = times["servax"]
    rival = min(("foolbox", "art"), key=lambda name: times[name].cpu_seconds.median)
    floor = times["floor"].cpu_seconds.median / ours.cpu_seconds.median
    attacked = 100.0 / given.batch_size
    answered = 1_000.0 / given.batch_size
    what = f"speech encoder on {given.seconds:g} s of sound, batch {given.batch_size}"
    apart = max(left.values()) - min(left.values())

    def beside(name: str, words: str) -> Row:
        found = ratio(times[rival], times[name])
        busy = times[rival].cpu_seconds.median / times[name].cpu_seconds.median
        return Row(
            what=f"PGD-{given.steps}{words}, {what}",
            against=f"{rival} to the end, the faster of foolbox and art",
            target=f"≥ {TARGET:g} ×, accuracies equal",
            measured=f"{busy:.2f} × of processor seconds, {found} by the clock; accuracies at most "
            f"{apart:.1f} points apart",
            met=busy >= TARGET and apart == 0.0,
            floor=f"the gradients alone, {100 * floor:.0f} % of processor seconds"
            if name == "servax"
            else "—",
        )

    return [
        beside("servax", " to the end"),
        beside("servax early stop", " of those who still stand"),
        Row(
            what=f"PGD-{given.steps} on 100 clips, {what}",
            against="—",
            target=f"≤ {ATTACKED_SECONDS:g} s",
            **_told(attacked, ours, ATTACKED_SECONDS),
        ),
        Row(
            what=f"answers to 1,000 clips, {what}",
            against="—",
            target=f"≤ {ANSWERED_SECONDS:g} s",
            **_told(answered, times["answers"], ANSWERED_SECONDS),
        ),
    ]


def _told(batches: float, times: Times, most: float) -> dict[str, Any]:
    """Return what so many batches take; the processor's seconds are those of an idle core."""
    busy, clock = (batches * each.median for each in (times.cpu_seconds, times.seconds))
    told = f"{busy:.0f} s of the processor, reckoned from one batch; {clock:.0f} s on this clock"
    return {"measured": told, "met": busy <= most}


def main() -> int:
    """Run the benchmark; 0 when all targets are met."""
    given = arguments()
    torch.set_num_threads(given.threads)
    load_torchaudio()  # transformers imports it where it is installed
    recogniser = Recogniser.from_pretrained(given.model)
    network = recogniser.network.eval().requires_grad_(False)
    pgd = PGD(epsilon=given.radius, step=given.radius / 4, steps=given.steps, bounds=(-1.0, 1.0))
    parts = batches(given, recogniser)
    every = {name: Turns(run, parts) for name, run in contenders(network, pgd).items()}
    times = race(every, rounds=given.rounds)
    left = {
        name: accuracy(network, parts, [cast(Tensor, each) for each in times[name].results])
        for name in ("servax", "servax early stop", "foolbox", "art")
    }
    made = rows(given, times, left)
    write(
        "sound",
        made,
        times=times,
        packages=PACKAGES,
        folder=given.results,
        pgd={"step": pgd.step, "radius": pgd.epsilon, "steps": pgd.steps},
        clean_accuracy=accuracy(network, parts, [x for x, _ in parts]),
        attacked_accuracy=left,
    )
    return 0 if all(row.met in (True, None) for row in made) else 1


def arguments() -> argparse.Namespace:
    """Return the command line."""
    made = parser("PGD on sound: servax, foolbox and art.")
    add = made.add_argument
    add("--model", type=Path, required=True, help="folder of a recogniser on a speech encoder")
    add("--corpus", default="ravdess", help="name of a corpus, or a manifest")
    add("--root", default=None, help="folder of the corpus; default $SERVAX_DATA/<name>")
    add("--seconds", type=float, default=4.0, help="length of a clip")
    add("--batch-size", type=int, default=8, help="clips attacked together")
    add("--steps", type=int, default=10, help="steps of PGD")
    add("--radius", type=float, default=0.0002, help="largest change of a sample; a step is 1/4")
    return made.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServaxError as error:
        sys.exit(f"sound: {error}")
