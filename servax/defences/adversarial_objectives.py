"""What adversarial training minimises: two objectives of [18], PGD-AT and TRADES; and noise.

- `Vanilla`, `Similarity`: Ren et al., ICASSP 2020 ([18] of the paper), and its published code.
- `MadryPGD`: Madry et al. 2018, equation 2.1.
- `Trades`: Zhang et al. 2019, equation 5 and algorithm 1, and its published code.
- `NoiseTraining`: Cohen et al. 2019, section 3.3, for randomised smoothing.

Adversarial inputs are made anew in each iteration, against a copy of the current network in
evaluation mode whose batch norms are folded: the network itself keeps its mode, its running
statistics and its gradients. Loss terms are then taken in training mode.

Clean and adversarial inputs pass the network one after the other, as in the published code of [18]
and of TRADES: each batch norm normalises either batch with that batch's own mean and variance, and
its running statistics, which evaluation uses, follow both in turn. (One pass of both batches
together would normalise with statistics that neither has.)

Departures: inputs stay in [0, 1] ([18] works on z-scores, without a range); TRADES moves its random
start into the ball and into [0, 1] before the first gradient, and passes the clean batch once, not
twice, so that running statistics count clean and adversarial inputs alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from servax.attacks import FGSM, PGD
from servax.attacks.base import Attack, Labels
from servax.defences.random_models import Smoothed, noisy
from servax.kinds import COUNT, POSITIVE, Choice, Rule, Rules, check_types
from servax.models import VGG16, frozen
from servax.perturbation import Linf, ascend
from servax.training import drawn

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, C) and classes (B,) to a scalar: cross-entropy, with class weights or not."""
START_DEVIATION = 1e-3
"""Standard deviation of the noise that TRADES starts from, in units of the input."""
LENGTH = Rule("a number in (0, 1], on the [0, 1] scale", lambda v: 0 < v <= 1)


@dataclass(frozen=True)
class Objective(ABC):
    """A training loss that makes its own adversarial inputs."""

    kind: ClassVar[str]
    """What it is called."""

    def __post_init__(self) -> None:
        check_types(self, whole=False)

    @property
    def name(self) -> str:
        """Name of the trained model in records, e.g. ``pgd-at``."""
        return self.kind

    def answering(self, network: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return what answers with a trained network: the network itself, in most cases.

        Args:
            network: In evaluation mode.
            generator: Draws what is random in an answer.
        """
        del generator
        return network

    @abstractmethod
    def loss(
        self, network: VGG16, x: Tensor, y: Tensor, criterion: Criterion, generator: torch.Generator
    ) -> Tensor:
        """Return the scalar loss of one batch, with gradients to the network's parameters.

        Args:
            network: In training mode.
            x: Clean log-Mel (B, 1, M, F) on [0, 1].
            y: True classes (B,), int64.
            criterion: Classification loss.
            generator: Draws what is random in the attack.
        """


@dataclass(frozen=True)
class SingleStep(Objective):
    """Trains on FGSM inputs of one size beside the clean ones, as [18] does."""

    epsilon: float
    """Size of FGSM in training, on the [0, 1] scale (.003 is .24 dB)."""
    labels: Labels = "predicted"
    """FGSM leads away from the class the network `predicted` ([18]), or from the `true` one."""

    RULES: ClassVar[Rules] = {"epsilon": LENGTH, "labels": Choice(("true", "predicted"))}

    @property
    def name(self) -> str:
        """Name of the trained model in records, e.g. ``adversarial-vanilla-0.003``."""
        return f"adversarial-{self.kind}-{self.epsilon:g}"

    def fgsm(self, network: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """Return FGSM inputs (B, 1, M, F) against the classes that `labels` asks for."""
        # [18] predicts in training mode, with the clean pass that the loss needs anyway.
        away_from = y if self.labels == "true" else logits.detach().argmax(dim=1)
        return _craft(FGSM(epsilon=self.epsilon), network, x, away_from, None)


@dataclass(frozen=True)
class Vanilla(SingleStep):
    """Half the loss of clean, half that of FGSM inputs ([18])."""

    kind = "vanilla"

    def loss(
        self, network: VGG16, x: Tensor, y: Tensor, criterion: Criterion, generator: torch.Generator
    ) -> Tensor:
        """Return .5 CE(x) + .5 CE(x_adv)."""
        del generator
        logits = network(x)
        adversarial = network(self.fgsm(network, x, y, logits))
        return 0.5 * criterion(logits, y) + 0.5 * criterion(adversarial, y)


@dataclass(frozen=True)
class Similarity(SingleStep):
    """Clean and FGSM inputs are to be classified, and to be embedded alike ([18])."""

    kind = "similarity"

    def loss(
        self, network: VGG16, x: Tensor, y: Tensor, criterion: Criterion, generator: torch.Generator
    ) -> Tensor:
        """Return .4 CE(x) + .4 CE(x_adv) + .2 MSE(z, z_adv), z the pooled embedding (B, D).

        Gradients pass through both embeddings.
        """
        del generator
        embedding = network.embed(x)
        logits = network.head(embedding)
        adversarial_embedding = network.embed(self.fgsm(network, x, y, logits))
        adversarial = network.head(adversarial_embedding)
        return (
            0.4 * criterion(logits, y)
            + 0.4 * criterion(adversarial, y)
            + 0.2 * F.mse_loss(adversarial_embedding, embedding)
        )


@dataclass(frozen=True)
class SeveralSteps(Objective):
    """Trains on inputs that several steps of ascent have moved."""

    step: float = 0.005
    """Length of one step, on the [0, 1] scale."""
    radius: float = 0.015
    """Largest change of an element, on the [0, 1] scale (.015 is 1.2 dB)."""
    steps: int = 5
    """Number of steps."""

    RULES: ClassVar[Rules] = {"step": LENGTH, "radius": LENGTH, "steps": COUNT}


@dataclass(frozen=True)
class MadryPGD(SeveralSteps):
    """Trains on PGD inputs alone, from a random start (Madry et al. 2018)."""

    kind = "pgd-at"

    def loss(
        self, network: VGG16, x: Tensor, y: Tensor, criterion: Criterion, generator: torch.Generator
    ) -> Tensor:
        """Return CE(x_adv)."""
        attack = PGD(step=self.step, epsilon=self.radius, steps=self.steps, random_start=True)
        return criterion(network(_craft(attack, network, x, y, generator)), y)


@dataclass(frozen=True)
class Trades(SeveralSteps):
    """Clean inputs are to be classified, neighbours to get the same answer (Zhang et al. 2019)."""

    beta: float = 6.0
    """Weight of the divergence (1 / λ in the paper, whose experiments take 1 and 6)."""

    kind = "trades"
    RULES: ClassVar[Rules] = {"beta": POSITIVE}

    def loss(
        self, network: VGG16, x: Tensor, y: Tensor, criterion: Criterion, generator: torch.Generator
    ) -> Tensor:
        """Return CE(x) + beta * KL(p(x) || p(x_adv)), a mean over utterances."""
        neighbours = self.neighbours(network, x, generator)
        logits = network(x)
        divergence = _divergence(logits, network(neighbours)).mean()
        return criterion(logits, y) + self.beta * divergence

    def neighbours(self, network: VGG16, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the inputs (B, 1, M, F) near `x` whose answer differs most from that of `x`."""
        twin = frozen(network)
        with torch.no_grad():
            clean = twin(x)
        # At x itself the divergence is 0 and so is its gradient: a little noise leads away.
        noise = drawn(torch.randn, x.shape, generator, x.dtype).to(x.device)
        walk = ascend(
            lambda moved: _divergence(clean, twin(moved)),
            x,
            Linf(self.radius),
            step=self.step,
            steps=self.steps,
            start=x + START_DEVIATION * noise,
        )
        return list(walk)[-1]


@dataclass(frozen=True)
class NoiseTraining(Objective):
    """Trains on inputs with white Gaussian noise alone; answers are means over noisy copies.

    No attack is made in training. What is small beside the noise cannot move the answer far.
    """

    standard_deviation: float
    """Of the noise, on the [0, 1] scale (.1 is 8 dB)."""
    draws: int = 8
    """Noisy copies whose mean probability is one answer."""

    kind = "smoothed"
    RULES: ClassVar[Rules] = {"standard_deviation": LENGTH, "draws": COUNT}

    @property
    def name(self) -> str:
        """Name of the trained model in records, e.g. ``smoothed-0.1``."""
        return f"{self.kind}-{self.standard_deviation:g}"

    def answering(self, network: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the smoothed classifier (`servax.defences.Smoothed`)."""
        return Smoothed(network, self.standard_deviation, self.draws, generator).eval()

    def loss(
        self, network: VGG16, x: Tensor, y: Tensor, criterion: Criterion, generator: torch.Generator
    ) -> Tensor:
        """Return CE(x + noise)."""
        return criterion(network(noisy(x, self.standard_deviation, generator)), y)


def _divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """Return KL(softmax(clean) || softmax(moved)) of each utterance (B,), from logits (B, C)."""
    # Logarithms on both sides: a probability that underflows to 0 would have no finite gradient.
    p, q = clean.log_softmax(dim=1), moved.log_softmax(dim=1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(dim=1)


def _craft(
    attack: Attack, network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None
) -> Tensor:
    if not len(x):  # one of several processes may have no part in a small batch
        return x
    return attack(frozen(network), x, y, generator=generator)
