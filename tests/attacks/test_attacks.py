"""What holds for every attack: costs, modes, labels, what may be attacked."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from attack_table import InTurn
from torch import nn

from servax.attacks import FGSM, PGD, Restarts, class_loss
from servax.defences import Defended, GaussianNoise, MeanFilter, Quantise
from servax.errors import SettingError
from servax.features import FrontEnd, FrontEndSettings, Scale, ScaleSettings
from servax.models import VGG16, WaveformClassifier
from servax.perturbation import L2, Linf

EPSILONS = (0.003, 0.006, 0.05, 0.4)
ATTACKS = {
    "FGSM": FGSM(epsilon=0.05),
    "FGSM L2": FGSM(epsilon=0.4, norm=L2),
    "PGD": PGD(step=0.02, epsilon=0.05, steps=4),
    "PGD L2": PGD(step=0.2, epsilon=0.5, steps=4, norm=L2),
    "PGD random start": PGD(step=0.02, epsilon=0.05, steps=4, random_start=True),
}
attacks = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Costs


@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize("labels", ["true", "predicted"])
def test_a_sweep_equals_separate_attacks_and_costs_one_gradient(build, inputs, watch, norm, labels):
    model = watch(build("conv"))
    x, y = inputs()
    swept = list(FGSM(norm=norm, labels=labels).sweep(model, x, y, EPSILONS))
    assert model.backwards == 1
    assert [size for size, _ in swept] == sorted(EPSILONS)
    for epsilon, found in swept:
        alone = FGSM(epsilon=epsilon, norm=norm, labels=labels)(model, x, y)
        assert torch.equal(found, alone)
    assert model.backwards == 1 + len(EPSILONS)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_a_sweep_attacks_only_what_still_stands(build, inputs, norm):
    model, (x, _) = build("conv"), inputs()
    y = model(x).argmax(1)
    attack = PGD(step=0.02, steps=3, norm=norm, early_stop=True)
    sizes = (0.4, 0.01, 0.1) if norm is L2 else (0.2, 0.005, 0.03)
    swept = list(attack.sweep(model, x, y, sizes))
    assert [size for size, _ in swept] == sorted(sizes)
    still = torch.ones(len(x), dtype=torch.bool)
    before = x
    for size, found in swept:
        alone = replace(attack, epsilon=size)(model, x[still], y[still])
        assert torch.equal(found[~still], before[~still])
        torch.testing.assert_close(found[still], alone)
        still &= model(found).argmax(1) == y
        before = found


def test_a_sweep_of_an_attack_that_does_not_stop_early_is_made_to_the_end(build, inputs):
    model, (x, _) = build("conv"), inputs()
    y = model(x).argmax(1)
    attack = PGD(step=0.02, steps=3)
    swept = list(attack.sweep(model, x, y, (0.005, 0.2, 0.3)))
    assert bool((model(swept[1][1]).argmax(1) != y).any())
    for size, found in swept:
        assert torch.equal(found, replace(attack, epsilon=size)(model, x, y))


def test_restarts_are_swept_by_the_sizes_of_their_attack(build, inputs):
    model, (x, y) = build("conv"), inputs()
    restarts = Restarts(PGD(step=0.02, steps=2, random_start=True, early_stop=True), 2)
    draws = torch.Generator().manual_seed(0)
    for size, found in restarts.sweep(model, x, y, [0.1, 0.01], generator=draws):
        assert float((found - x).abs().amax()) <= size


def test_a_sweep_of_an_attack_without_epsilon_is_refused(build, inputs):
    sentence = "the attack of a sweep is 'InTurn', expected an attack with the setting epsilon."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        next(InTurn([PGD()]).sweep(build("conv"), *inputs(), [0.1]))


@pytest.mark.parametrize("norm", [Linf, L2])
def test_iterate_k_is_the_attack_of_k_steps_and_a_trajectory_costs_one_gradient_each(
    build, inputs, watch, norm
):
    model = watch(build("conv"))
    x, y = inputs()
    settings = {"step": 0.05, "epsilon": 0.12, "norm": norm}
    walk = list(PGD(steps=6, **settings).trajectory(model, x, y))
    assert model.backwards == 6
    assert model.forwards == 6
    for k, iterate in enumerate(walk, start=1):
        assert torch.equal(iterate, PGD(steps=k, **settings)(model, x, y))


def test_a_trajectory_that_is_left_early_costs_only_what_was_asked_for(build, inputs, watch):
    model = watch(build("conv"))
    x, y = inputs()
    walk = PGD(steps=1_000_000).trajectory(model, x, y)
    assert model.forwards == 0
    next(walk)
    next(walk)
    assert model.backwards == 2


# Modes


def mixed_modes(model):
    """Put a model in training mode with one part frozen in evaluation mode."""
    model.train()
    model.layers[1].eval()
    return {name: module.training for name, module in model.named_modules()}


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


@attacks
def test_attacks_run_in_evaluation_mode_and_put_each_part_back(build, inputs, watch, attack):
    model = build("conv")
    before = mixed_modes(model)
    statistics = model.layers[1].running_mean.clone()
    watched = watch(model)
    x, y = inputs()
    found = attack(watched, x, y, generator=seeded())
    assert watched.modes == {False}
    assert modes(model) == before
    assert torch.equal(model.layers[1].running_mean, statistics)
    assert torch.equal(found, attack(build("conv"), x, y, generator=seeded()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sweep_puts_modes_back_before_its_first_result(build, inputs):
    model = build("conv")
    before = mixed_modes(model)
    next(FGSM().sweep(model, *inputs(), EPSILONS))
    assert modes(model) == before


def test_modes_are_put_back_when_a_trajectory_is_closed(build, inputs):
    model = build("conv")
    before = mixed_modes(model)
    walk = PGD().trajectory(model, *inputs())
    assert modes(model) == before
    next(walk)
    assert set(modes(model).values()) == {False}
    walk.close()
    assert modes(model) == before


@attacks
def test_modes_are_put_back_when_the_model_fails(build, inputs, attack):
    model = build("conv")
    before = mixed_modes(model)

    def fail(module, arguments):
        raise RuntimeError("out of memory")

    model.layers[-1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        attack(model, *inputs(), generator=seeded())
    assert modes(model) == before


# Labels and settings


@attacks
def test_predicted_labels_lead_away_from_what_the_model_says(build, inputs, attack):
    model = build("conv")
    x, y = inputs()
    said = model(x).argmax(dim=1)
    assert not torch.equal(said, y)
    settings = dict(vars(attack))
    predicted = type(attack)(**{**settings, "labels": "predicted"})
    found = predicted(model, x, y, generator=seeded())
    assert torch.equal(found, attack(model, x, said, generator=seeded()))
    assert not torch.equal(found, attack(model, x, y, generator=seeded()))


def test_a_random_start_repeats_with_its_seed(build, inputs):
    model = build("conv")
    attack = ATTACKS["PGD random start"]
    first, same, other = (attack(model, *inputs(), generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", [name for name in ATTACKS if "random" not in name])
def test_each_utterance_is_attacked_by_itself(build, inputs, name):
    attack = ATTACKS[name]
    model = build("conv")
    x, y = inputs()
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(attack(model, x, y), alone)


def test_class_loss_is_cross_entropy_per_input():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = class_loss(nn.Identity(), torch.tensor([1, 2]))(logits)
    expected = [math.log(sum(math.exp(v - 2.0) for v in (1.0, 2.0, 0.5))), math.log(3.0)]
    assert found.tolist() == pytest.approx(expected)


# What may be attacked


@attacks
@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_whether_gradients_are_off_outside(build, inputs, attack, grad_mode):
    model = build("conv")
    expected = attack(model, *inputs(), generator=seeded())
    with grad_mode():
        found = attack(model, *inputs(), generator=seeded())
    assert torch.equal(found, expected)


@attacks
def test_inputs_that_require_gradients_are_attacked_alike(build, inputs, attack):
    model = build("conv")
    x, y = inputs()
    expected = attack(model, x, y, generator=seeded())
    leaf = x.clone().requires_grad_(True)
    found = attack(model, leaf, y, generator=seeded())
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert leaf.grad is None


def loss_of(model, x, y):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x), y))


@attacks
def test_a_defended_model_is_attacked_through_its_defence(build, inputs, attack):
    model = build("conv")
    defended = Defended(model, MeanFilter(3)).eval()
    x, y = inputs()
    adaptive = attack(defended, x, y, generator=seeded())
    oblivious = attack(model, x, y, generator=seeded())
    assert loss_of(defended, adaptive, y) > loss_of(defended, oblivious, y)


def test_the_gradient_through_quantisation_is_the_identitys(build, inputs):
    model = build("conv")
    x, y = inputs()
    squeezed = Quantise(4)(x)
    found = FGSM(epsilon=0.01)(Defended(model, Quantise(4)), x, y)
    step = FGSM(epsilon=0.01, bounds=(-1.0, 2.0))(model, squeezed, y) - squeezed
    torch.testing.assert_close(found, (x + step).clamp(0.0, 1.0))


def test_a_random_defence_draws_anew_at_each_step(build, inputs):
    noise = GaussianNoise(0.05, seeded(3))
    state = noise.generator.get_state()
    PGD(steps=3)(Defended(build("conv"), noise), *inputs())
    assert not torch.equal(noise.generator.get_state(), state)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(epsilon=1e-3, bounds=(-1.0, 1.0)),
        FGSM(epsilon=0.05, norm=L2, bounds=(-1.0, 1.0)),
        PGD(step=5e-4, epsilon=2e-3, steps=4, bounds=(-1.0, 1.0)),
        PGD(step=0.05, epsilon=0.1, steps=4, norm=L2, bounds=(-1.0, 1.0)),
        PGD(step=5e-4, epsilon=1e-3, steps=4, bounds=(-1.0, 1.0), random_start=True),
    ],
)
def test_waveforms_are_attacked_through_the_front_end(attack):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        recogniser = VGG16(width=2)
    front_end = nn.Sequential(
        FrontEnd(FrontEndSettings(frames=32)), Scale(ScaleSettings(top_db=30.0))
    )
    model = WaveformClassifier(front_end, recogniser).eval()
    draws = seeded(1)
    x = (0.3 * torch.randn(3, 4_000, generator=draws)).clamp(-1.0, 1.0)
    x[0, 0], x[0, 1] = 1.0, -1.0
    y = torch.tensor([0, 1, 3])
    found = attack(model, x, y, generator=draws)
    assert found.shape == x.shape
    assert float(found.min()) >= -1.0
    assert float(found.max()) <= 1.0
    assert (attack.ball.norm(found - x) <= attack.ball.radius + 1e-6).all()
    assert loss_of(model, found, y) > loss_of(model, x, y)


def test_bounds_without_an_exact_float32_are_met_by_inputs_on_them(build, inputs):
    x, y = inputs(torch.float32)
    found = FGSM(epsilon=0.01, bounds=(0.0, 0.3))(build("conv", torch.float32), 0.3 * x, y)
    assert bool((found <= 0.3).all())


def test_inputs_without_bounds(build, inputs):
    x, y = inputs()
    everywhere = (-math.inf, math.inf)
    found = FGSM(epsilon=0.5, bounds=everywhere)(build("conv"), 100 * x, y)
    step = FGSM(epsilon=0.5, bounds=(-1e3, 1e3))(build("conv"), 100 * x, y)
    assert torch.equal(found, step)


def test_rounding_over_a_long_waveform_is_no_breach_of_a_small_l2_ball():
    x = torch.full((1, 96_000), 0.9)
    head = nn.Linear(96_000, 2)
    found = PGD(step=1e-4, epsilon=1e-4, steps=2, norm=L2, bounds=(-1.0, 1.0))(
        head, x, torch.tensor([0])
    )
    assert not torch.equal(found, x)
