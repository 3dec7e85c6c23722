"""Trains a purifier through surrogates: recognisers that stand in for targets nobody has shown.

Each step draws one surrogate, distorts the batch by what moves its decisions (`DecisionSSA`),
purifies, and asks that the surrogate then decides and hears as it did on the clean input: KL
divergence of its output (denoised smoothing, Salman et al. 2020, "stability" objective), features
at several depths (HGD, Liao et al. 2018), pixels. No discriminator.

Knowledge: P0 (no weights of the target) and P2 (no label; the surrogates have had labels of theirs)
are kept; P3 is given up, since the distortion attacks logits, and P1 only holds for targets whose
architecture is none of the surrogates'.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from servax.errors import SettingError
from servax.features import Dataset
from servax.kinds import COUNT, NOT_NEGATIVE, Rule, Rules, check_types, renamed, typed
from servax.models import TAPS, VGG16, Layers, UNet, feature_extractor, frozen
from servax.perturbation import Linf, ascend, into_ball
from servax.purifier.losses import pixel_loss
from servax.training import (
    Compute,
    RestorerTrainer,
    Schedule,
    Terms,
    check_restorer,
    drawn,
    generator,
)

SURROGATE_TAPS = ("pool1", "pool2", "conv3_3", "pool4")
"""Where a VGG-16 is read, from texture to what the decision is made of."""


@renamed(budget="epsilon")
@dataclass(frozen=True)
class DecisionSSA:
    """Self-supervised augmentation on the level of decisions, with mixed budgets.

    As SSA, but what is raised is the divergence of a surrogate's own output (virtual adversarial
    training, Miyato et al. 2018, eq. 5), not a distance of features: what moves a decision is what
    an attack looks like. Still no label: the surrogate's output on the clean input is the
    reference. Budgets and steps differ from utterance to utterance and from batch to batch, and
    some utterances stay clean, so that the purifier learns to leave these alone.
    """

    epsilon: float = 0.04
    """Largest change of an element, on the [0, 1] scale (.04 is 3.2 dB); that of an utterance is
    uniform in [0, epsilon]."""
    steps: int = 4
    """Most ascent steps; those of a batch are uniform in 1 … steps."""
    clean_share: float = 0.25
    """Share of the utterances that are left as they are."""

    RULES: ClassVar[Rules] = {
        "epsilon": Rule("a number in (0, 1]", lambda v: 0 < v <= 1),
        "steps": COUNT,
        "clean_share": Rule("a share in [0, 1)", lambda v: 0 <= v < 1),
    }

    def __post_init__(self) -> None:
        check_types(self)

    @typed
    def __call__(
        self, surrogate: nn.Module, x: Tensor, logits: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return distorted inputs (B, 1, M, F) on [0, 1], each within a budget of its own.

        Args:
            surrogate: From (B, 1, M, F) to logits (B, C), frozen and in evaluation mode.
            x: Clean inputs on [0, 1].
            logits: ``surrogate(x)``, (B, C), without gradients.
            generator: Draws budgets, steps, who stays clean, and the start.
        """
        each = torch.Size((len(x), 1, 1, 1))
        clean = drawn(torch.rand, each, generator, x.dtype) < self.clean_share
        budgets = (self.epsilon * drawn(torch.rand, each, generator, x.dtype)).masked_fill(clean, 0)
        budgets = budgets.to(x.device)
        steps = int(torch.randint(1, self.steps + 1, (), generator=generator))
        step = 1.0 / steps
        start = step * (2 * drawn(torch.rand, x.shape, generator, x.dtype) - 1).to(x.device)

        def change(unit: Tensor) -> Tensor:
            return (x + budgets * unit).clamp(0.0, 1.0)

        # In units of each utterance's budget, one ball serves all of them.
        iterates = ascend(
            lambda moved: divergence(logits, surrogate(change(moved))),
            torch.zeros_like(x),
            Linf(1.0),
            step=step,
            steps=steps,
            start=start,
            bounds=(-1.0, 1.0),
        )
        return into_ball(x, change(deque(iterates, maxlen=1).pop()), Linf(self.epsilon))


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(softmax reference ‖ softmax logits) of logits (B, C), one value each (B,)."""
    terms = kl_div(
        log_softmax(logits, 1), log_softmax(reference, 1), reduction="none", log_target=True
    )
    return terms.sum(1)


class Surrogate(nn.Module):
    """A frozen recogniser, read at its logits and, where it has taps, at its features.

    Args:
        network: From (B, 1, M, F) to logits (B, C). A VGG-16 is read at `SURROGATE_TAPS`; others
            have no taps, and only their logits count.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = frozen(network)
        # Layers from tap to tap, in a plain list: they are the network's own, registered there.
        self.parts: list[nn.Sequential] = []
        if isinstance(self.network, VGG16):
            layers = dict(feature_extractor(self.network, TAPS[-1]).named_children())
            names = list(layers)
            ends = [names.index(tap.replace("conv", "relu")) + 1 for tap in SURROGATE_TAPS]
            cuts = [0, *ends, len(names)]
            parts = list(layers.values())
            self.parts = [Layers(*parts[a:b]) for a, b in pairwise(cuts)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of inputs (B, 1, M, F)."""
        logits: Tensor = self.network(x)
        return logits

    def read(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, C) and the features at each tap, in one pass."""
        if not self.parts:
            return self(x), []
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        pooled = torch.amax(features.pop(), dim=(2, 3))
        return self.network.head(pooled), features  # type: ignore[operator]


@dataclass(frozen=True)
class SurrogateTraining:
    """Settings of a purifier's training through surrogates."""

    ssa: DecisionSSA = field(default_factory=DecisionSSA)
    """The augmentation."""
    decision: float = 1.0
    """Weight of the divergence of the surrogate's output."""
    feature: float = 1.0
    """Weight of the features' mean absolute difference, relative to their mean size."""
    pixel: float = 0.1
    """Weight of L_pix (eq. 4)."""
    frames: int = 192
    """Length of the random stretch of each utterance a step sees; shorter utterances pass whole."""
    epochs: int = 8
    """Most epochs."""
    patience: int = 8
    """Epochs without a lower validation loss before training stops."""
    batch_size: int = 16
    """Utterances per step."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of the cosine schedule."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises linearly from 0; 0 switches it off."""
    clip_norm: float = 1.0
    """Largest Euclidean norm of the gradient; 0 switches clipping off."""

    RULES: ClassVar[Rules] = {
        **dict.fromkeys(("decision", "feature", "pixel"), NOT_NEGATIVE),
        "frames": Rule("a whole number of at least 32", lambda v: v >= 32),
    }

    def __post_init__(self) -> None:
        check_types(self)
        if isinstance(self.ssa, dict):  # settings read back from JSON arrive as plain dicts
            object.__setattr__(self, "ssa", DecisionSSA(**self.ssa))
        if self.decision == self.feature == self.pixel == 0:
            raise SettingError(
                "decision, feature, pixel", (0, 0, 0), "at least one above 0, or nothing is learned"
            )
        check_restorer(self)
        self.schedule()

    def schedule(self) -> Schedule:
        """Return when training stops and which epoch is kept."""
        return Schedule(self.epochs, self.patience, monitor="validation/loss", mode="min")


class SurrogateTrainer(RestorerTrainer[SurrogateTraining]):
    """P in training through surrogates, to be driven by `servax.training.fit`.

    Args:
        network: P, from (B, 1, M, F) to the same shape; each step teaches a `UNet` of several
            passes one of them, drawn at random.
        surrogates: Recognisers from (B, 1, M, F) to logits; none may be the model to protect.
        train: Training speakers; their labels are not read.
        validation: Validation speakers.
        settings: How to train.
        seed: Seeds batches, stretches, the choice of surrogates and the distortions.
        compute: Device and precision.

    Raises:
        SettingError: There is no surrogate.
    """

    purpose = "purifier"
    distortion = "decision-ssa"

    def __init__(
        self,
        network: nn.Module,
        surrogates: Sequence[nn.Module],
        train: Dataset,
        validation: Dataset,
        settings: SurrogateTraining,
        *,
        seed: int,
        compute: Compute | None = None,
    ) -> None:
        if not surrogates:
            raise SettingError("surrogates", [], "at least one trained recogniser")
        super().__init__(network, train, validation, settings, seed=seed, compute=compute)
        self.surrogates = [Surrogate(each).to(self.device) for each in surrogates]

    def _step(self, x: Tensor, draws: torch.Generator) -> Terms:
        """Move P on one batch x (B, 1, M, F)."""
        s, team, whole = self.settings, self.team, len(x)
        chosen = int(torch.randint(0, len(self.surrogates), (), generator=draws))
        surrogate = self.surrogates[chosen]
        x = stretch(x, s.frames, draws)
        draws, x = team.draws(draws, whole), team.cut(x)
        share = team.share(len(x), whole)
        with self.compute.autocast():
            with torch.no_grad():
                logits, features = surrogate.read(x)
            purified = self._purified(s.ssa(surrogate, x, logits, draws), draws)
        output = purified.detach().requires_grad_(True)
        with self.compute.autocast():
            terms = self._terms(surrogate, x, output, logits, features)
        (gradient,) = torch.autograd.grad(terms["loss"] * share, output)
        self._move(purified, gradient)
        return team.means({name: term.detach() for name, term in terms.items()}, share)

    def _purified(self, x: Tensor, draws: torch.Generator) -> Tensor:
        """Return x (B, 1, M, F) purified; of several passes one learns, those before it do not."""
        network, chosen = self.network, {}
        if isinstance(network, UNet) and network.settings.passes > 1:
            chosen["only"] = int(torch.randint(0, network.settings.passes, (), generator=draws))
            x = network.before(x, **chosen)
        purified: Tensor = self._called(x, **chosen)
        return purified

    def _terms(
        self,
        surrogate: Surrogate,
        x: Tensor,
        purified: Tensor,
        logits: Tensor,
        features: list[Tensor],
    ) -> dict[str, Tensor]:
        s = self.settings
        heard, found = surrogate.read(purified)
        decision = divergence(logits, heard).mean()
        pixel = pixel_loss(x, purified)
        loss = s.decision * decision + s.pixel * pixel
        terms = {"decision": decision, "pixel": pixel}
        if features:
            pairs = zip(features, found, strict=True)
            far = [(b - a).abs().mean() / a.abs().mean() for a, b in pairs]
            terms["feature"] = torch.stack(far).mean()
            loss = loss + s.feature * terms["feature"]
        return terms | {"loss": loss}

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step from 1: warm-up, then half a cosine down to 0."""
        steps = self.settings.epochs * self.steps_per_epoch()
        return super()._rate(step) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - 1) / steps)))

    def validate(self, epoch: int) -> Terms:
        """Return the loss terms on distorted validation speakers, the same in every epoch."""
        del epoch
        self.network.eval()
        draws = generator(self.seed, self.distortion, "validation")
        sums: Terms = {}
        for surrogate in self.surrogates:
            for batch in self._validation.batches(self.settings.batch_size, self.device):
                share = len(batch.x) / len(self._validation) / len(self.surrogates)
                with self.compute.autocast():
                    with torch.no_grad():
                        logits, features = surrogate.read(batch.x)
                    moved = self.settings.ssa(surrogate, batch.x, logits, draws)
                    with torch.no_grad():
                        purified = self.network(moved)
                        terms = self._terms(surrogate, batch.x, purified, logits, features)
                for name, term in terms.items():
                    key = f"validation/{name}"
                    sums[key] = sums.get(key, 0.0) + share * float(term)
        return sums


def stretch(x: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Return a random stretch of `frames` frames of each of x (B, 1, M, F), all if F is less."""
    if x.shape[3] <= frames:
        return x
    starts = torch.randint(0, x.shape[3] - frames + 1, (len(x), 1), generator=generator)
    index = (starts + torch.arange(frames)).to(x.device)  # (B, frames)
    return torch.gather(x, 3, index[:, None, None, :].expand(*x.shape[:3], frames))
