"""Train one purifier that differs from another in one point, and say what it is worth.

A trial trains on half `last` of the speakers and is tested on groups 1 to 3, in front of the fold's
own VGG-16 that no trial has seen: clean, FGSM and PGD inputs made once against the bare target
(oblivious), and PGD through the purifier (adaptive). Groups 4 to 6 are not looked at.

    python research/trial.py base no-kl

leaves `results/research/<trial>.json`, which docs/research.md tells of.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from conv_stem import ConvStem
from halves import HALVES, dataset, foreign, group_numbers
from materials import GRID, attacked, surrogate, targets
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from servax.attacks import PGD
from servax.defences import Defended, MeanFilter
from servax.evaluation.metrics import protection_efficacy, recovery_rate, uar
from servax.experiments.provenance import provenance
from servax.features import SpecAugment
from servax.models import FrameTransformer, UNet
from servax.perturbation import Linf, ascend
from servax.purifier.losses import pixel_loss
from servax.purifier.surrogates import SURROGATE_TAPS, Surrogate, divergence, stretch
from servax.training import epoch_order, generator, global_seed

RESULTS = Path("results/research")
MODELS = Path("runs/research/trials")
HALF = "last"
GROUPS = (1, 2, 3)


@dataclass(frozen=True)
class Trial:
    """What may differ between trials; a preset of the package keeps what has earned its place."""

    network: str = "unet"
    width: int = 16
    levels: int = 4
    patch: int = 2
    bound: float = 0.0
    residual: bool = True
    surrogates: tuple[str, ...] = ("vgg16-a",)
    crossed: bool = False
    """Whether each group of the half is attacked by a surrogate that has not heard it."""
    scheme: str = "native"
    objective: str = "kl"
    """What SSA raises: `kl`, `feature` (at conv3_3) or `label` (cross-entropy of true labels)."""
    budget: tuple[float, float] = (0.0, 0.04)
    iterations: tuple[int, int] = (1, 4)
    labels: float = 0.0
    """Weight of the cross-entropy of the true labels behind the purifier."""
    kl: float = 1.0
    feature: float = 1.0
    pixel: float = 0.1
    clean_share: float = 0.25
    augment: bool = False
    """Whether frames and Mel bands of the attacked input are hidden (SpecAugment)."""
    shuffle: int = 0
    """Texture of this order and above is shuffled before the network; 0 is none."""
    blur: int = 1
    """Side of the mean filter before the network, in Mel bins and frames; 1 is none."""
    texture: float = 0.0
    """Standard deviation of noise added after the network."""
    noise: float = 0.0
    """Standard deviation of noise added before the network, in training and in use."""
    end_to_end: float = 0.0
    """Share of the steps whose attack goes through the purifier."""
    average: float = 0.0
    """Decay of the averaged weights; 0 uses the last ones."""
    passes: int = 1
    """How often the input goes through the network in use (UNet)."""
    again: int = 0
    """Up to so many passes come before the one that learns."""
    weights: str = ""
    """Trial whose network is used as it is, without training."""
    steps: int = 360
    batch: int = 16
    frames: int = 192
    learning_rate: float = 1e-3
    masked: int = 0
    """Steps of masked pre-training."""
    masked_speech: tuple[str, ...] = ()
    """Corpora whose speech is heard in the masked pre-training too, each as often as RAVDESS."""
    seed: int = 0


BASE = Trial()
MIXED = replace(BASE, surrogates=("vgg16-a", "crnn", "resnet"))
LABELS = replace(MIXED, scheme="four", objective="label", labels=1.0, feature=0.3, kl=0.0)
SHUFFLE = replace(BASE, shuffle=4)
SSAD = replace(
    BASE,
    network="transformer",
    residual=False,
    objective="feature",
    budget=(0.06, 0.06),
    iterations=(3, 3),
    kl=0.0,
    pixel=1.0,
    clean_share=0.0,
    steps=120,
)
TRIALS: dict[str, Trial] = {
    "base": BASE,
    "two-surrogates": replace(BASE, surrogates=("vgg16-a", "vgg16-b")),
    "mixed-surrogates": MIXED,
    "four-labels": replace(BASE, scheme="four"),
    "feature-ssa": replace(BASE, objective="feature"),
    "no-kl": replace(BASE, kl=0.0),
    "no-feature": replace(BASE, feature=0.0),
    "direct": replace(BASE, residual=False),
    "bounded": replace(BASE, bound=0.06),
    "patch-4": replace(BASE, patch=4, width=32, levels=3),
    "transformer": replace(BASE, network="transformer", residual=False),
    "conv-stem": replace(BASE, network="conv-stem"),
    "noise": replace(BASE, noise=0.06),
    "end-to-end": replace(MIXED, end_to_end=1.0, iterations=(1, 3), feature=0.3),
    "end-to-end-labels": replace(
        MIXED,
        scheme="four",
        objective="label",
        labels=1.0,
        end_to_end=1.0,
        iterations=(1, 3),
        feature=0.3,
        kl=0.0,
    ),
    "labels": LABELS,
    "labels-augmented": replace(
        LABELS, steps=540, augment=True, feature=0.1, surrogates=(*LABELS.surrogates, "vgg16-b")
    ),
    "blur-noise": replace(BASE, blur=3, noise=0.05),
    "noise-denoise": replace(BASE, noise=0.1),
    "noise-denoise-texture": replace(BASE, noise=0.1, texture=0.04),
    "blur-noise-no-kl": replace(BASE, blur=3, noise=0.05, kl=0.0),
    "blur-noise-labels": replace(BASE, blur=3, noise=0.05, kl=0.0, labels=1.0, scheme="four"),
    "blur-noise-mixed": replace(MIXED, blur=3, noise=0.05),
    "blur-noise-pixel": replace(BASE, blur=3, noise=0.05, pixel=3.0),
    "blur-noise-low-kl": replace(BASE, blur=3, noise=0.05, kl=0.1),
    "ssad": SSAD,
    "ssad-kl": replace(SSAD, kl=1.0),
    "ssad-kl-ssa": replace(SSAD, kl=1.0, objective="kl"),
    "ssad-mixed-budget": replace(SSAD, budget=(0.0, 0.06), clean_share=0.25),
    "ssad-labels": replace(SSAD, labels=1.0, scheme="four"),
    "shuffle": SHUFFLE,
    "shuffle-labels": replace(SHUFFLE, labels=1.0, kl=0.0, scheme="four"),
    "shuffle-mixed": replace(SHUFFLE, surrogates=("vgg16-a", "vgg16-b", "crnn", "resnet")),
    "shuffle-twice": replace(SHUFFLE, passes=2, weights="shuffle"),
    "shuffle-again": replace(SHUFFLE, passes=2, again=2),
    "shuffle-3-again": replace(SHUFFLE, shuffle=3, passes=2, again=2),
    "shuffle-3-long": replace(SHUFFLE, shuffle=3, passes=3, again=2, steps=900),
    "shuffle-3-many": replace(SHUFFLE, shuffle=3, passes=3, again=2, iterations=(4, 8)),
    "shuffle-untrained": replace(SHUFFLE, steps=0),
    "shuffle-large": replace(SHUFFLE, budget=(0.0, 0.08)),
    "shuffle-pixel": replace(SHUFFLE, pixel=2.0),
    "crossed": replace(BASE, crossed=True),
    "large-budget": replace(BASE, budget=(0.0, 0.08), iterations=(2, 5)),
    "small-budget": replace(BASE, budget=(0.0, 0.02)),
    "many-steps": replace(BASE, iterations=(4, 8)),
    "average": replace(BASE, average=0.98),
    "two-passes": replace(BASE, passes=2, weights="base"),
    "pixel": replace(BASE, pixel=1.0),
    "no-kl-pixel": replace(BASE, kl=0.0, pixel=3.0),
    "no-kl-large": replace(BASE, kl=0.0, budget=(0.0, 0.08), iterations=(2, 5)),
    "no-kl-feature-ssa": replace(BASE, kl=0.0, objective="feature"),
    "no-kl-direct-large": replace(
        BASE, kl=0.0, residual=False, budget=(0.0, 0.08), iterations=(2, 5), pixel=1.0
    ),
    "masked": replace(BASE, masked=120),
    "masked-more": replace(BASE, masked=120, masked_speech=("emodb", "fsdd")),
    "long": replace(BASE, steps=1080),
}


class Trained(nn.Module):
    """The network as it stands before a recogniser: blur and noise first."""

    def __init__(self, network: nn.Module, trial: Trial) -> None:
        super().__init__()
        self.network, self.trial = network, trial
        self.blur = MeanFilter(trial.blur)
        self.draws = torch.Generator().manual_seed(trial.seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the purified input (B, 1, M, F), on [0, 1]."""
        trial = self.trial
        x = self.blur(x)
        if trial.noise:
            x = x + trial.noise * torch.randn(x.shape, generator=self.draws)
        x = self.network(x)
        if trial.texture:
            x = x + trial.texture * torch.randn(x.shape, generator=self.draws)
        # Where it is cut off, no gradient would lead back.
        return x if self.training else x.clamp(0.0, 1.0)


def build(trial: Trial) -> nn.Module:
    """Return the untrained network of a trial."""
    with global_seed(trial.seed, "weights"):
        if trial.network == "conv-stem":
            return ConvStem(texture=trial.shuffle)
        if trial.network == "transformer":
            return FrameTransformer(residual=trial.residual)
        return UNet(
            width=trial.width,
            levels=trial.levels,
            patch=trial.patch,
            bound=trial.bound,
            texture=trial.shuffle,
            passes=trial.passes,
            residual=trial.residual,
        )


class Stand(Surrogate):
    """A surrogate that can also be read at conv3_3 alone, as the paper's extractor is."""

    def features(self, x: Tensor) -> Tensor:
        """Return the features at conv3_3."""
        for part in self.parts[: SURROGATE_TAPS.index("conv3_3") + 1]:
            x = part(x)
        return x


def distort(
    trial: Trial, model: Stand, through: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator
) -> Tensor:
    """Return x pushed away by ascent, a share of the batch left as it is."""
    low, high = trial.budget
    budget = low + (high - low) * torch.rand((len(x), 1, 1, 1), generator=draws)
    clean = torch.rand((len(x), 1, 1, 1), generator=draws) < trial.clean_share
    budget = budget.masked_fill(clean, 0.0)
    steps = int(torch.randint(trial.iterations[0], trial.iterations[1] + 1, (), generator=draws))
    with torch.no_grad():
        reference = model.features(x) if trial.objective == "feature" else model(x)

    def objective(unit: Tensor) -> Tensor:
        moved = through((x + budget * (unit - 0.5) * 2.0).clamp(0, 1))
        if trial.objective == "feature":
            return (model.features(moved) - reference).pow(2).flatten(1).mean(1)
        if trial.objective == "label":
            return cross_entropy(model(moved), y, reduction="none")
        return divergence(reference, model(moved))

    # The ball of each utterance is mapped to [0, 1], so that one ascent serves all budgets.
    middle = torch.full_like(x, 0.5)
    start = middle + (torch.rand(x.shape, generator=draws) - 0.5) * (0.5 / steps)
    unit = middle
    for iterate in ascend(objective, middle, Linf(0.5), step=1.0 / steps, steps=steps, start=start):
        unit = iterate
    return (x + budget * (unit - 0.5) * 2.0).clamp(0, 1)


def train(trial: Trial) -> Trained:
    """Return the trained purifier of a trial."""
    network = build(trial)
    whole = Trained(network, trial)
    shadow = copy.deepcopy(network)
    models = stands(trial)
    optimiser = torch.optim.AdamW(network.parameters(), lr=trial.learning_rate, weight_decay=1e-4)
    draws = generator(trial.seed, "trial")
    elsewhere = other_speech(trial, generator(trial.seed, "masked"))
    began = time.monotonic()
    for step, (x, y, allowed) in enumerate(batches(trial, trial.masked + trial.steps, draws)):
        rate = trial.learning_rate * min(1, (step + 1) / 20)
        rate *= 0.5 * (1 + math.cos(math.pi * step / (trial.masked + trial.steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        if step < trial.masked:
            if trial.masked_speech and step % (1 + len(trial.masked_speech)):
                x = next(elsewhere)
            hidden = torch.rand((len(x), 1, 16, x.shape[3] // 8), generator=draws) < 0.4
            mask = nn.functional.interpolate(hidden.float(), x.shape[2:])
            loss = (network(x * (1 - mask) + 0.5 * mask) - x).abs().mean()
        else:
            loss = _loss(trial, [models[name] for name in allowed], whole, network, x, y, draws)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if trial.average:
            with torch.no_grad():
                for mean, now in zip(shadow.parameters(), network.parameters(), strict=True):
                    mean.lerp_(now, 1 - min(trial.average, (1 + step) / (10 + step)))
        if step % 30 == 0:
            print(f"{step} {loss.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
    if trial.average:
        network.load_state_dict(shadow.state_dict())
    return whole.eval()


def _loss(
    trial: Trial,
    models: list[Stand],
    whole: Trained,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    draws: torch.Generator,
) -> Tensor:
    model = models[int(torch.randint(0, len(models), (), generator=draws))]
    through: nn.Module = nn.Identity()
    if float(torch.rand((), generator=draws)) < trial.end_to_end:
        through = whole
    network.requires_grad_(False)
    moved = distort(trial, model, through, x, y, draws)
    network.requires_grad_(True)
    if trial.augment:
        mask = SpecAugment()
        moved = mask.apply(moved, mask.draw(moved.shape, draws))
    if trial.again:
        last = int(torch.randint(0, trial.again + 1, (), generator=draws))
        purified = network(network.before(moved, last), only=last)
    else:
        purified = whole(moved)
    loss = trial.pixel * pixel_loss(x, purified)
    with torch.no_grad():
        logits, features = model.read(x)
    new_logits, new_features = model.read(purified)
    loss = loss + trial.kl * divergence(logits, new_logits).mean()
    if trial.labels:
        loss = loss + trial.labels * cross_entropy(new_logits, y)
    for old, new in zip(features, new_features, strict=True):
        distance = (new - old).abs().mean() / old.abs().mean()
        loss = loss + trial.feature * distance / len(features)
    return loss


def stands(trial: Trial) -> dict[str, Stand]:
    """Return the surrogates of a trial by name."""
    names = list(trial.surrogates)
    if trial.crossed:
        names = [f"{name}-without-{group}" for name in names for group in HALVES[HALF]]
    return {name: Stand(surrogate(HALF, name)) for name in names}


def batches(
    trial: Trial, steps: int, draws: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
    """Yield random stretches of the training speakers' utterances, labels and who may attack."""
    data = dataset(HALF, scheme=trial.scheme)
    groups = np.array(group_numbers(HALF, scheme=trial.scheme))
    done = epoch = 0
    while done < steps:
        for positions, names in _epoch(trial, groups, epoch):
            if done == steps:
                return
            done += 1
            batch = data.batch(positions)
            yield stretch(batch.x, trial.frames, draws), batch.y, names
        epoch += 1


def other_speech(trial: Trial, draws: torch.Generator) -> Iterator[Tensor]:
    """Yield random stretches of the speech of other corpora, in turn, without end."""
    data = [foreign(HALF, name) for name in trial.masked_speech]
    while True:
        for each in data:
            positions = torch.randint(0, len(each), (trial.batch,), generator=draws).numpy()
            yield stretch(each.batch(positions).x, trial.frames, draws)


def _epoch(
    trial: Trial, groups: np.ndarray, epoch: int
) -> Iterator[tuple[np.ndarray, tuple[str, ...]]]:
    if not trial.crossed:
        for positions in epoch_order(len(groups), trial.batch, seed=trial.seed, epoch=epoch):
            yield positions, trial.surrogates
        return
    # Batches of one group each, taken in turn: only its own surrogates have not heard it.
    parts = [
        [
            (np.flatnonzero(groups == group)[positions], names)
            for positions in epoch_order(
                int((groups == group).sum()), trial.batch, seed=trial.seed, epoch=epoch
            )
        ]
        for group in HALVES[HALF]
        for names in [tuple(f"{name}-without-{group}" for name in trial.surrogates)]
    ]
    for together in zip(*parts, strict=False):
        yield from together


def reused(trial: Trial, name: str) -> Trained:
    """Return the purifier of a trial, trained under this name."""
    network = build(trial)
    network.load_state_dict(torch.load(MODELS / f"{name}.pt", weights_only=True))
    return Trained(network, trial).eval()


@torch.no_grad()
def predictions(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Return the classes (N,) of inputs (N, 1, M, F)."""
    return np.concatenate(
        [
            model(torch.from_numpy(np.array(x[i : i + 16]))).argmax(1).numpy()
            for i in range(0, len(x), 16)
        ]
    )


def oblivious(purifier: nn.Module, groups: tuple[int, ...], network: str = "vgg16") -> dict:
    """Return the oblivious figures, pooled over the groups' utterances, in percent."""
    names = list(GRID)
    labels, bare, kept = [], {n: [] for n in names}, {n: [] for n in names}
    for group in groups:
        target = targets(network, group)
        labels.append(target.labels)
        for name in names:
            x = attacked(network, group, name)
            bare[name].append(target.undefended(name))
            kept[name].append(predictions(nn.Sequential(purifier, target.network), x))
    y = np.concatenate(labels)
    bare = {n: np.concatenate(p) for n, p in bare.items()}
    kept = {n: np.concatenate(p) for n, p in kept.items()}
    fgsm = [n for n in names if n.startswith("fgsm")]
    pgd = [n for n in names if n.startswith("pgd")]
    mean = lambda chosen, table: float(np.mean([100 * uar(y, table[n]) for n in chosen]))  # noqa: E731
    return {
        "undefended": mean(["clean"], bare),
        "clean": mean(["clean"], kept),
        "fgsm": mean(fgsm, kept),
        "pgd": mean(pgd, kept),
        "bare_fgsm": mean(fgsm, bare),
        "bare_pgd": mean(pgd, bare),
        "pe": float(
            np.mean([protection_efficacy(y, bare["clean"], bare[n], kept[n]) for n in pgd])
        ),
        "rr": float(np.mean([recovery_rate(y, bare["clean"], kept[n]) for n in pgd])),
    }


def adaptive(purifier: nn.Module, group: int, radius: float, every: int = 2) -> float:
    """Return the UAR in percent under PGD-10 through the purifier, on every second utterance."""
    target = targets("vgg16", group)
    x = torch.from_numpy(np.array(attacked("vgg16", group, "clean")[::every]))
    y = torch.from_numpy(target.labels[::every])
    system = Defended(target.network, purifier)
    attack = PGD(step=radius / 4, epsilon=radius, steps=10)
    found = [
        system(attack(system, x[i : i + 16], y[i : i + 16])).argmax(1).numpy()
        for i in range(0, len(x), 16)
    ]
    return 100 * uar(y.numpy(), np.concatenate(found))


def main() -> None:
    """Do the trials that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="+", choices=TRIALS, metavar="TRIAL")
    given = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    MODELS.mkdir(parents=True, exist_ok=True)
    for name in given.trials:
        trial = TRIALS[name]
        began = time.monotonic()
        whole = reused(trial, trial.weights) if trial.weights else train(trial)
        trained = time.monotonic() - began
        torch.save(whole.network.state_dict(), MODELS / f"{name}.pt")
        whole.requires_grad_(False)
        figures = oblivious(whole, GROUPS)
        figures["adaptive"] = {str(r): adaptive(whole, 1, r) for r in (0.005, 0.02)}
        record = {
            "trial": name,
            "settings": asdict(trial),
            "parameters": sum(p.numel() for p in whole.parameters()),
            "groups": GROUPS,
            "figures": figures,
            "training_seconds": round(trained),
            **{k: provenance("").get(k) for k in ("commit",)},
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(name, json.dumps(figures), f"{trained:.0f} s", flush=True)


if __name__ == "__main__":
    main()
