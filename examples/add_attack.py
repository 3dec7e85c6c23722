"""Add an attack: settings and one method that yields ever stronger inputs.

    python examples/add_attack.py in.wav angry              # alone, on a recogniser
    servax audit crnn-synthetic --corpus synthetic --tier smoke --utterances 8 \
        --attacks corner=add_attack:BestCorner              # in an audit; in this folder

Checks of inputs, evaluation mode, masks, bounds and the refusal to leave the ball come with the
base class. In an audit the attack knows the whole system, and counts in the worst case.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import servax as sx
from servax.attacks import margin
from servax.perturbation import into_reach


@dataclass(frozen=True, kw_only=True)
class BestCorner(sx.attacks.BallAttack):
    """The best of some random corners of the ball: no gradient, `tries` questions."""

    tries: int = 20
    """Corners that are tried."""

    def iterates(self, problem: sx.attacks.Problem) -> Iterator[torch.Tensor]:
        """Yield the best corner so far."""
        best, ball = problem.x, problem.within(self.ball)  # masked frames do not move
        for _ in range(self.tries):
            corner = ball.steepest(ball.sample(problem.x, problem.random()))
            z = into_reach(problem.x, problem.x + ball.radius * corner, ball, problem.bounds)
            old, new = (problem.gain(margin, problem.scores(inputs)) for inputs in (best, z))
            better = (new > old).view(-1, *[1] * (z.ndim - 1))
            best = torch.where(better, z, best)
            yield best


def main() -> None:
    """Attack one sound and say what the recogniser hears."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sound", help="sound file")
    parser.add_argument("label", help="its true label")
    parser.add_argument("--model", default="crnn-ravdess", help="default: %(default)s")
    given = parser.parse_args()

    recogniser = sx.Recogniser.from_pretrained(given.model)
    x = recogniser.inputs(given.sound)
    y = torch.tensor([recogniser.labels.index(given.label)])
    moved = BestCorner()(recogniser.network, x, y, generator=torch.Generator().manual_seed(0))
    for title, inputs in (("clean", x), ("attacked", moved)):
        print(f"{title}: {recogniser.labels[int(recogniser.network(inputs).argmax())]}")


if __name__ == "__main__":
    main()
