from __future__ import annotations

import copy
import importlib
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from servax.defences import MadryPGD, NoiseTraining, Objective, Similarity, Trades, Vanilla
from servax.errors import SettingError
from servax.models import VGG16
from servax.perturbation import Linf

OBJECTIVES: list[Objective] = [
    Vanilla(0.01),
    Vanilla(0.02, labels="true"),
    Similarity(0.01),
    Similarity(0.02, labels="true"),
    MadryPGD(step=0.01, radius=0.02, steps=3),
    Trades(step=0.01, radius=0.02, steps=3),
    NoiseTraining(0.1),
]
WEIGHTS = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
both = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)


@pytest.fixture
def network() -> VGG16:
    """Return a network in training mode whose running statistics are not those of any batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = VGG16(4, 2)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network.double().train()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(4)
    x = torch.rand(6, 1, 32, 40, generator=draws, dtype=torch.float64)
    return (1.2 * x - 0.1).clamp(0.0, 1.0), torch.arange(6) % 4


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def slow_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Weighted cross-entropy, written out: sum of w_y * -log p_y over sum of w_y."""
    chances = logits.exp() / logits.exp().sum(1, keepdim=True)
    right = torch.stack([chances[row, label] for row, label in enumerate(y.tolist())])
    w = WEIGHTS[y]
    return -(w * right.log()).sum() / w.sum()


def slow_walk(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    step: float,
    radius: float,
    steps: int,
) -> Tensor:
    """Sign steps as the published codes write them: .grad of a leaf, two clamps."""
    moved = start.clone()
    for _ in range(steps):
        leaf = moved.detach().clone().requires_grad_(True)
        loss(leaf).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        moved = leaf.detach() + step * torch.sign(leaf.grad)
        moved = torch.min(torch.max(moved, x - radius), x + radius)
        moved = torch.clamp(moved, 0.0, 1.0)
    return moved


def slow_kl(clean: Tensor, moved: Tensor) -> Tensor:
    """Sum over utterances and classes of p log(p / q)."""
    p, q = clean.softmax(1), moved.softmax(1)
    return (p * (p / q).log()).sum()


def slow_loss(objective: Objective, network: VGG16, x: Tensor, y: Tensor) -> Tensor:
    """The order of the published codes: clean pass, attack on a copy in eval mode, second pass."""
    if isinstance(objective, Vanilla | Similarity):
        z = network.embed(x)
        logits = network.head(z)
        twin = copy.deepcopy(network).eval()
        away = y if objective.labels == "true" else logits.argmax(1)
        e = objective.epsilon
        x_adv = slow_walk(
            lambda v: nn.functional.nll_loss(nn.functional.log_softmax(twin(v), 1), away),
            x,
            x,
            e,
            e,
            1,
        )
        z_adv = network.embed(x_adv)
        loss, loss_adv = (
            slow_cross_entropy(logits, y),
            slow_cross_entropy(network.head(z_adv), y),
        )
        if isinstance(objective, Vanilla):
            return 0.5 * loss + 0.5 * loss_adv
        return 0.4 * loss + 0.4 * loss_adv + 0.2 * ((z_adv - z) ** 2).sum() / z.numel()
    if isinstance(objective, NoiseTraining):
        noise = torch.randn(x.shape, generator=seeded(), dtype=x.dtype)
        return slow_cross_entropy(network(x + objective.standard_deviation * noise), y)
    twin = copy.deepcopy(network).eval()
    if isinstance(objective, MadryPGD):
        start = (x + Linf(objective.radius).sample(x, seeded())).clamp(0.0, 1.0)
        x_adv = slow_walk(
            lambda v: -twin(v).log_softmax(1)[torch.arange(len(y)), y].sum(),
            x,
            start,
            objective.step,
            objective.radius,
            objective.steps,
        )
        return slow_cross_entropy(network(x_adv), y)
    assert isinstance(objective, Trades)
    x_adv = slow_trades(objective, twin, x)
    logits = network(x)
    return slow_cross_entropy(logits, y) + objective.beta * slow_kl(logits, network(x_adv)) / len(x)


def slow_trades(objective: Trades, twin: nn.Module, x: Tensor) -> Tensor:
    noise = torch.randn(x.shape, generator=seeded(), dtype=x.dtype)
    start = (x + 0.001 * noise).clamp(0.0, 1.0)
    return slow_walk(
        lambda v: slow_kl(twin(x).detach(), twin(v)),
        x,
        start,
        objective.step,
        objective.radius,
        objective.steps,
    )


@both
def test_loss_gradients_and_running_statistics_are_those_of_the_formula(
    objective: Objective, network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    plain = copy.deepcopy(network)
    expected = slow_loss(objective, plain, x, y)
    expected.backward()  # type: ignore[no-untyped-call]
    loss = objective.loss(network, x, y, nn.CrossEntropyLoss(WEIGHTS), seeded())
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    assert float(loss.detach()) > 0.01
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)
    # Each pass in training mode moved the statistics once; the attack did not.
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-9, atol=1e-9)
    passes = 1 if isinstance(objective, MadryPGD | NoiseTraining) else 2
    assert int(network.state_dict()["features.norm1_1.num_batches_tracked"]) == passes


def seen_by(network: VGG16, run: Callable[[], object]) -> list[Tensor]:
    """Return what the network itself, not a copy of it, was given in training mode."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module is network.features:
            assert all(part.training for part in network.modules())
            seen.append(inputs[0].detach().clone())

    with_hook = network.features.register_forward_pre_hook(note)
    run()
    with_hook.remove()
    return seen


def quietly(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.mark.parametrize("kind", [Vanilla, Similarity])
@pytest.mark.parametrize("labels", ["true", "predicted"])
def test_fgsm_inputs_are_those_of_torchattacks_and_foolbox(
    kind: Any, labels: Any, network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    objective = kind(0.015, labels=labels)
    attacked = copy.deepcopy(network)
    with torch.no_grad():
        logits = attacked(x)  # moves the running statistics, as the clean pass of the loss does
    away = y if labels == "true" else logits.argmax(1)
    assert not torch.equal(logits.argmax(1), y)
    attacked.eval()
    criterion = nn.CrossEntropyLoss()
    clean, adversarial = seen_by(
        network, lambda: objective.loss(network, x, y, criterion, seeded())
    )
    assert torch.equal(clean, x)
    foolbox, torchattacks = quietly("foolbox"), quietly("torchattacks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = torchattacks.FGSM(attacked, eps=0.015)(x, away)
        wrapped = foolbox.PyTorchModel(attacked, bounds=(0, 1), device="cpu")
        second = foolbox.attacks.LinfFastGradientAttack(random_start=False).run(
            wrapped, x, foolbox.criteria.Misclassification(away), epsilon=0.015
        )
    for theirs in (first, second):
        torch.testing.assert_close(adversarial, theirs, rtol=0.0, atol=1e-6)


def test_pgd_inputs_are_those_of_foolbox_from_the_same_start(
    network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    attacked = copy.deepcopy(network).eval()
    objective = MadryPGD()
    (adversarial,) = seen_by(
        network, lambda: objective.loss(network, x, y, nn.CrossEntropyLoss(), seeded())
    )
    foolbox = quietly("foolbox")
    oracle = foolbox.attacks.LinfPGD(abs_stepsize=0.005, steps=5, random_start=True)
    oracle.get_random_start = lambda clean, epsilon: (
        clean + type(clean)(Linf(0.015).sample(x, seeded()))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = foolbox.PyTorchModel(attacked, bounds=(0, 1), device="cpu")
        expected = oracle.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=0.015)
    torch.testing.assert_close(adversarial, expected, rtol=0.0, atol=1e-6)


def test_trades_climbs_the_divergence_as_the_published_code_does(
    network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    x, _ = batch
    objective = Trades(step=0.005, radius=0.015, steps=5)
    twin = copy.deepcopy(network).eval()
    found = objective.neighbours(network, x, seeded())
    torch.testing.assert_close(found, slow_trades(objective, twin, x), rtol=0.0, atol=1e-9)
    assert float((found - x).abs().max()) == pytest.approx(0.015)
    once = replace(objective, steps=1).neighbours(network, x, seeded())
    with torch.no_grad():
        assert slow_kl(twin(x), twin(found)) > slow_kl(twin(x), twin(once)) > 0


def test_trades_stands_a_network_that_is_sure_of_itself(
    network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    """Probabilities that underflow to 0 leave loss and gradients finite."""
    x, y = batch
    network = network.float()
    with torch.no_grad():
        network.head.weight *= 1e4
    loss = Trades().loss(network, x.float(), y, nn.CrossEntropyLoss(), seeded())
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(float(loss.detach()))
    for name, parameter in network.named_parameters():
        assert bool(parameter.grad.isfinite().all()), name  # type: ignore[union-attr]


@both
def test_making_inputs_leaves_no_trace(
    objective: Objective, network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    before = x.clone()
    network.features.get_submodule("norm1_1").eval()  # a part kept in evaluation mode
    modes = [module.training for module in network.modules()]
    objective.loss(network, x, y, nn.CrossEntropyLoss(), seeded())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(x, before)
    for name, parameter in network.named_parameters():
        assert parameter.grad is None, name
        assert parameter.requires_grad, name


def test_what_was_trained_for_noise_answers_with_the_mean_over_noisy_copies(
    network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    x, _ = batch
    network.eval()
    found = NoiseTraining(0.2, draws=3).answering(network, seeded())(x).exp()
    draws, chances = seeded(), torch.zeros(6, 4, dtype=x.dtype)
    for _ in range(3):
        noise = torch.randn(x.shape, generator=draws, dtype=x.dtype)
        chances += network(x + 0.2 * noise).softmax(1) / 3
    torch.testing.assert_close(found, chances, rtol=1e-9, atol=1e-9)
    assert Vanilla(0.1).answering(network, seeded()) is network


@pytest.mark.parametrize(
    "objective", [MadryPGD(), Trades(), NoiseTraining(0.1)], ids=lambda o: o.name
)
def test_random_starts_come_from_the_generator(
    objective: Objective, network: VGG16, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    losses = [
        float(
            objective.loss(copy.deepcopy(network), x, y, nn.CrossEntropyLoss(), generator).detach()
        )
        for generator in (seeded(), seeded(), torch.Generator().manual_seed(1))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_names_are_those_of_the_records() -> None:
    grid = (0.003, 0.006, 0.009, 0.012, 0.015)
    names = [Vanilla(e).name for e in grid] + [Similarity(e).name for e in grid]
    assert names == [
        *(f"adversarial-vanilla-0.0{e}" for e in ("03", "06", "09", "12", "15")),
        *(f"adversarial-similarity-0.0{e}" for e in ("03", "06", "09", "12", "15")),
    ]
    assert (MadryPGD().name, Trades().name) == ("pgd-at", "trades")
    assert NoiseTraining(0.05).name == "smoothed-0.05"


UNIT = "expected a number in (0, 1], on the [0, 1] scale."


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Vanilla(0.0), f"epsilon is 0.0, {UNIT}"),
        (lambda: Similarity(1.5), f"epsilon is 1.5, {UNIT}"),
        (lambda: Similarity(math.nan), f"epsilon is nan, {UNIT}"),
        (
            lambda: Vanilla(0.1, labels="preddicted"),  # type: ignore[arg-type]
            "labels is 'preddicted', expected one of predicted, true. Did you mean 'predicted'?",
        ),
        (
            lambda: Similarity(0.1, labels="mine"),  # type: ignore[arg-type]
            "labels is 'mine', expected one of predicted, true.",
        ),
        (lambda: MadryPGD(step=-0.1), f"step is -0.1, {UNIT}"),
        (lambda: NoiseTraining(0.0), f"standard_deviation is 0.0, {UNIT}"),
        (lambda: NoiseTraining(0.1, draws=0), "draws is 0, expected a whole number of at least 1."),
        (lambda: MadryPGD(radius=0.0), f"radius is 0.0, {UNIT}"),
        (lambda: MadryPGD(steps=0), "steps is 0, expected a whole number of at least 1."),
        (
            lambda: Trades(steps=1.5),  # type: ignore[arg-type]
            "steps is 1.5, expected a whole number of at least 1.",
        ),
        (lambda: Trades(step=2.0), f"step is 2.0, {UNIT}"),
        (lambda: Trades(beta=0.0), "beta is 0.0, expected a finite number above 0."),
        (lambda: Trades(beta=math.inf), "beta is inf, expected a finite number above 0."),
    ],
)
def test_settings_are_refused(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        make()
