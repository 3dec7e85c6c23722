"""What holds for every attack of attack_table.py, whatever the norm, the classes and the bounds."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from attack_table import ATTACKS
from torch import Tensor, nn

from servax.attacks import APGD, FGSM, NES, PGD, SPSA, logits_of
from servax.defences import Bpda, Defended, ExpectationOverDraws
from servax.errors import SettingError
from servax.models import WaveformClassifier
from servax.perturbation import L2, Linf, SignalToNoise, into_16_bit
from servax.runtime.samples import STEP_16_BIT

HEIGHT, WIDTH = 5, 7


def cases(keep=lambda entry: True, *, once=False, norms=(Linf, L2, SignalToNoise)):
    """Return each attack in each of its norms, or in one where the norm has no part in it."""
    return pytest.mark.parametrize(
        ("entry", "norm"),
        [
            pytest.param(entry, norm, id=f"{name} {norm.__name__}")
            for name, entry in ATTACKS.items()
            if keep(entry)
            for norm in entry.norms[: 1 if once else None]
            if norm in norms
        ],
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def classifier(classes, *, shape=(HEIGHT, WIDTH), curved=True):
    """Return a smooth network into `classes` classes, or a linear one."""
    size = math.prod(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        bent = [nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, classes)]
        layers = bent if curved else [nn.Linear(size, classes)]
        return nn.Sequential(nn.Flatten(), *layers).double()


def clean(bounds=(0.0, 1.0), *, batch=6, shape=(1, HEIGHT, WIDTH)):
    """Draw inputs that reach finite bounds; standard normal ones without bounds."""
    if not math.isfinite(bounds[1]):
        return torch.randn(batch, *shape, generator=seeded(1), dtype=torch.float64)
    unit = torch.rand(batch, *shape, generator=seeded(1), dtype=torch.float64)
    low, high = bounds
    return low + (high - low) * (1.4 * unit - 0.2).clamp(0.0, 1.0)


def epsilon_of(norm, share=1.0):
    """Return an epsilon that moves elements about as far in each norm."""
    if norm is SignalToNoise:  # elements are some .6 large
        return 15.6 - 20.0 * math.log10(share)
    return share * (0.1 if norm is Linf else 0.1 * math.sqrt(HEIGHT * WIDTH))


def said(model, x):
    with torch.no_grad():
        return model(x).argmax(dim=1)


def check_reach(attack, x, found, bounds):
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    ball = attack.ball.around(x)
    assert (ball.norm(found - x) <= ball.radius * (1 + 1e-9)).all()
    assert float(found.min()) >= bounds[0]
    assert float(found.max()) <= bounds[1]


@pytest.mark.parametrize("classes", [2, 3, 12])
@cases()
def test_the_ball_is_kept_for_any_number_of_classes(entry, norm, classes):
    model, x = classifier(classes), clean()
    y = said(model, x)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    found = attack(model, x, y, generator=seeded())
    check_reach(attack, x, found, (0.0, 1.0))
    assert not torch.equal(found, x)


@pytest.mark.parametrize("bounds", [(-3.0, 5.0), (2.0, 2.5), (-math.inf, math.inf)])
@cases()
def test_the_bounds_are_kept(entry, norm, bounds):
    model, x = classifier(4), clean(bounds)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm), bounds=bounds)
    found = attack(model, x, said(model, x), generator=seeded())
    check_reach(attack, x, found, bounds)
    assert not torch.equal(found, x)


@pytest.mark.parametrize(
    "shape", [(9,), (3, 4), (2, 4, 3)], ids=["waveforms", "no channel", "channels"]
)
@cases()
def test_inputs_of_any_shape_are_attacked(entry, norm, shape):
    model, x = classifier(3, shape=shape), clean(shape=shape)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    check_reach(attack, x, attack(model, x, said(model, x), generator=seeded()), (0.0, 1.0))


SLOPES = {NES: 0.05, SPSA: 0.5}


@cases(lambda entry: SignalToNoise in entry.norms, once=True)
def test_a_ratio_is_an_l2_ball_of_each_utterances_own(entry, norm):
    model, draws = classifier(4, shape=(30,)), torch.randn(5, 30, generator=seeded(1)).double()
    sounds = draws * torch.tensor([0.01, 0.03, 0.1, 0.2, 0.2]).double().view(-1, 1)
    ratio = entry.make(norm=SignalToNoise, epsilon=12.0, bounds=(-1.0, 1.0))
    for x in sounds.clamp(-1.0, 1.0).split(1):
        radius = math.sqrt(sum(float(sample) ** 2 for sample in x[0])) * 10 ** (-12.0 / 20)
        ball = entry.make(norm=L2, epsilon=radius, bounds=(-1.0, 1.0))
        if type(ball) in SLOPES:  # taken over a share of the ball of a ratio, over a length here
            ball = replace(ball, sigma=SLOPES[type(ball)] * radius / math.sqrt(x.numel()))
        by_ratio, by_radius = (
            attack(model, x, said(model, x), generator=seeded(2)) for attack in (ratio, ball)
        )
        assert not torch.equal(by_ratio, x)
        torch.testing.assert_close(by_ratio, by_radius, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(
    "attack", [FGSM(norm=SignalToNoise, epsilon=30.0), APGD(norm=SignalToNoise)]
)
def test_a_sweep_over_ratios_begins_with_the_quietest_change(attack):
    model, x = classifier(3, shape=(30,)), torch.rand(8, 30, generator=seeded(4)).double()
    y, before = said(model, x), torch.zeros(8, dtype=torch.bool)
    sizes = attack.sweep(model, x, y, [10.0, 50.0, 30.0], generator=seeded())
    for (share, found), expected in zip(sizes, [10**-2.5, 10**-1.5, 10**-0.5], strict=True):
        assert share == pytest.approx(expected)
        lengths = (found - x).norm(dim=1) / x.norm(dim=1)
        assert bool((lengths <= share * (1 + 1e-9)).all())
        assert not (before & (said(model, found) == y)).any()
        before = said(model, found) != y
    assert before.any()


def test_a_step_that_hardly_moves_in_the_ball_of_a_ratio_is_refused():
    sentence = "step is 0.003, expected at least 0.01, such as .25: a share of the ball, no length."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        PGD(norm=SignalToNoise, epsilon=40.0)


@pytest.mark.parametrize("lengths", ["padded", "full"])
@cases(lambda entry: SignalToNoise in entry.norms)
def test_samples_of_16_bits_lie_inside_the_ball_and_fool(entry, norm, lengths):
    model = classifier(4, shape=(60,))
    x = into_16_bit(0.05 * torch.randn(5, 60, generator=seeded(1))).double()
    mask = None
    if lengths == "padded":
        mask = torch.arange(60) < torch.tensor([20, 60, 45, 60, 50]).view(-1, 1)
        x[0, 20:] = 0.3 * STEP_16_BIT  # no 16-bit sample, and not to be touched
    epsilon = {Linf: 20.4 * STEP_16_BIT, L2: 0.003, SignalToNoise: 30.0}[norm]
    attack = entry.make(norm=norm, epsilon=epsilon, bounds=(-1.0, 1.0), sixteen_bit=True)
    y = said(model, x)
    found = attack(model, x, y, generator=seeded(2), mask=mask)
    check_reach(attack, x, found, (-1.0, 1.0))
    free = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    whole = found[free] / STEP_16_BIT
    assert torch.equal(whole, whole.round())
    assert torch.equal(found[~free], x[~free])
    assert not torch.equal(found, x)


@pytest.mark.parametrize("lengths", ["for each utterance", "for all"])
@cases()
def test_what_a_mask_hides_is_left_alone(entry, norm, lengths):
    model, x = classifier(4), clean()
    if lengths == "for all":
        mask = (torch.arange(WIDTH) < 4).view(1, 1, 1, WIDTH)
    else:
        mask = (torch.arange(WIDTH) < torch.arange(1, 7).view(-1, 1)).view(6, 1, 1, WIDTH)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    y = said(model, x)
    found = attack(model, x, y, generator=seeded(), mask=mask)
    hidden = ~mask.expand(x.shape)
    assert torch.equal(found[hidden], x[hidden])
    assert not torch.equal(found, x)
    check_reach(attack, x, found, (0.0, 1.0))


@pytest.mark.parametrize("classes", [2, 6])
@cases(lambda entry: entry.targeted, norms=(Linf, L2))
def test_a_targeted_attack_reaches_its_class_on_an_easy_model(entry, norm, classes):
    model, x = classifier(classes, curved=False), clean((-math.inf, math.inf))
    wanted = (said(model, x) + 1) % classes
    attack = entry.make(
        norm=norm, epsilon=epsilon_of(norm, 40.0), bounds=(-math.inf, math.inf), targeted=True
    )
    assert torch.equal(said(model, attack(model, x, wanted, generator=seeded())), wanted)


@pytest.mark.parametrize("classes", [2, 6])
@cases(norms=(Linf, L2))
def test_an_attack_fools_an_easy_model(entry, norm, classes):
    model, x = classifier(classes, curved=False), clean((-math.inf, math.inf))
    y = said(model, x)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm, 20.0), bounds=(-math.inf, math.inf))
    assert not (said(model, attack(model, x, y, generator=seeded())) == y).any()


@cases(once=True)
def test_an_attack_repeats_with_its_seed_and_leaves_the_global_one_alone(entry, norm):
    model, x = classifier(4), clean()
    y = said(model, x)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm, 0.2))
    state = torch.random.get_rng_state()
    first, same = (attack(model, x, y, generator=seeded(1)) for _ in range(2))
    assert torch.equal(first, same)
    assert torch.equal(torch.random.get_rng_state(), state)


@cases(once=True)
def test_a_generator_is_needed_only_where_something_is_random(entry, norm):
    model, x = classifier(4), clean()
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm, 0.2))
    if not entry.random:
        attack(model, x, said(model, x))
        return
    sentence = "generator is None, expected a torch.Generator, the attack is random."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        attack(model, x, said(model, x))


class Counted(nn.Module):
    """Counts the rows that pass, and notes the mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0
        self.modes: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        self.modes.add(self.training)
        return self.model(x)


@cases(once=True)
def test_the_models_mode_is_put_back(entry, norm):
    model, x = Counted(classifier(4)).train(), clean()
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    attack(model, x, torch.zeros(6, dtype=torch.int64), generator=seeded())
    assert model.modes == {False}
    assert all(part.training for part in model.modules())


@cases(lambda entry: entry.leaves, once=True)
def test_utterances_that_are_wrong_already_cost_one_look_and_stay_clean(entry, norm):
    model, x = Counted(classifier(4)), clean()
    y = said(model.model, x)
    wrong = torch.tensor([True, False, True, True, False, True])
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    found = attack(model, x, torch.where(wrong, (y + 1) % 4, y), generator=seeded())
    assert torch.equal(found[wrong], x[wrong])
    assert not torch.equal(found[~wrong], x[~wrong])
    model.rows = 0
    found = attack(model, x, (y + 1) % 4, generator=seeded())
    assert torch.equal(found, x)
    assert model.rows == len(x)


@cases(lambda entry: entry.leaves)
def test_fooled_utterances_leave_the_batch(entry, norm):
    model, x = Counted(classifier(4, curved=False)), clean((-math.inf, math.inf))
    y = said(model.model, x)
    settings = {"norm": norm, "bounds": (-math.inf, math.inf)}
    entry.make(epsilon=epsilon_of(norm, 1e-3), **settings)(model, x, y, generator=seeded())
    in_vain, model.rows = model.rows, 0
    loud = 0.0 if norm is SignalToNoise else epsilon_of(norm, 20.0)
    entry.make(epsilon=loud, **settings)(model, x, y, generator=seeded())
    assert model.rows < in_vain


class Halve(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x.clamp(0.2, 0.8)


@cases(once=True)
def test_a_defended_model_is_a_model(entry, norm):
    model = Defended(classifier(4), Halve())
    x = clean()
    y = said(model, x)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    found = attack(model, x, y, generator=seeded())
    check_reach(attack, x, found, (0.0, 1.0))
    assert not torch.equal(found, x)


@cases(once=True)
def test_gradients_may_be_off_outside(entry, norm):
    model, x = classifier(4), clean()
    y = said(model, x)
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    expected = attack(model, x, y, generator=seeded())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = attack(model, x.clone(), y.clone(), generator=seeded())
        assert torch.equal(found, expected)


@cases(once=True)
def test_float32_is_kept(entry, norm):
    model, x = classifier(4).float(), clean().float()
    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    found = attack(model, x, said(model, x), generator=seeded())
    assert found.dtype == torch.float32
    assert not found.requires_grad


class Writing(nn.Module):
    """Writes into what it is given before it classifies."""

    def __init__(self, write, model):
        super().__init__()
        self.write, self.model = write, model

    def forward(self, x):
        self.write(x)
        return self.model(x)


def half_shifted(x):
    x[:] = (x - 0.5) * 2


WRITES = {
    "clamp_": (lambda x: x.clamp_(0.2, 0.8), lambda x: x.clamp(0.2, 0.8)),
    "ReLU(inplace=True)": (nn.ReLU(inplace=True), torch.relu),
    "-=": (lambda x: x.sub_(x.mean((1, 2, 3), True)), lambda x: x - x.mean((1, 2, 3), True)),
    "[:] =": (half_shifted, lambda x: (x - 0.5) * 2),
}


@pytest.mark.parametrize("write", WRITES)
@cases(once=True)
def test_a_model_that_writes_into_its_input_is_attacked_like_one_that_does_not(entry, norm, write):
    writes, pure = WRITES[write]
    model, x = classifier(4), clean()
    given = x.clone()
    y = model(pure(x)).argmax(1)

    class Pure(nn.Module):
        def forward(self, x):
            return model(pure(x))

    attack = entry.make(norm=norm, epsilon=epsilon_of(norm))
    found, expected = (
        attack(each, x, y, generator=seeded(4)) for each in (Writing(writes, model), Pure())
    )
    assert torch.equal(x, given)
    assert torch.equal(found, expected)
    assert (model(pure(found)).argmax(1) != y).any() or write == "clamp_"


def test_asking_for_the_predicted_label_leaves_the_input_alone():
    x = clean()
    given, model = x.clone(), Writing(half_shifted, classifier(4))
    attack = FGSM(epsilon=0.1, labels="predicted")
    attack.target(model, x, torch.zeros(len(x), dtype=torch.int64))
    assert torch.equal(x, given)


@pytest.mark.parametrize("kind", [Defended, Bpda, WaveformClassifier, ExpectationOverDraws])
def test_each_part_of_a_chain_may_write_into_what_it_is_given(kind):
    """A sigmoid keeps its output for its gradient, which the next part must not write into."""
    model, x = Writing(nn.ReLU(inplace=True), classifier(3)), clean()
    if kind is WaveformClassifier:
        x = x.flatten(1)
    parts = {
        Defended: (model, nn.Sigmoid()),
        Bpda: (model, Writing(lambda x: x.mul_(2), nn.Sigmoid())),
        WaveformClassifier: (nn.Sigmoid(), model),
        ExpectationOverDraws: (model, 2),
    }
    whole = kind(*parts[kind])
    leaf = x.clone().requires_grad_()
    logits_of(whole, leaf).sum().backward()
    assert (leaf.grad != 0).any()
    assert torch.equal(leaf.detach(), x)
