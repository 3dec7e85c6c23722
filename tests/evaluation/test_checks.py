"""Each check of a model or an attack catches one broken on purpose, and lets a sound one pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import approx_fprime, linprog
from sklearn.svm import SVC
from torch import Tensor, nn

from servax.attacks import FGSM, PGD, Attack, Problem
from servax.defences import GaussianNoise
from servax.errors import SettingError, ShapeError
from servax.evaluation import checks
from servax.evaluation.checks import Case, Finding, of_answers, of_attacks, of_gradients
from servax.evaluation.checks.of_gradients import _slopes
from servax.evaluation.checks.readout import Features, separate
from servax.evaluation.systems import System
from servax.perturbation import L2, Ball, Bounds, Linf
from servax.training import global_seed

CLASSES = 3


def network() -> nn.Sequential:
    """Return a smooth classifier of (B, 1, 6, 8) with weights from a seed."""
    with global_seed(5, "network"):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8 * 48, CLASSES),
        )
    return model.eval()


class Rounded(nn.Module):
    """Rounds its input, with no gradient or with the identity's."""

    def __init__(self, model: nn.Module, *, straight_through: bool = False) -> None:
        super().__init__()
        self.model, self.straight_through = model, straight_through

    def forward(self, x: Tensor) -> Tensor:
        rounded = (4 * x).round() / 4
        logits: Tensor = self.model(
            x + (rounded - x).detach() if self.straight_through else rounded
        )
        return logits


class Then(nn.Module):
    """Applies a function to the logits of a model."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x))


class Coarse(nn.Module):
    """Computes in bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.bfloat16()).float()


class Noisy(nn.Module):
    """Draws noise from torch's global generator in each forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x + 0.2 * torch.randn_like(x))
        return logits


class Stuck(nn.Module):
    """Stays in training mode whatever it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def train(self, mode: bool = True) -> Stuck:
        super().train(True)
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


def batch_statistics() -> nn.Module:
    """Return a network whose batch norm uses the statistics of the batch in evaluation too."""
    model = network()
    with global_seed(6, "norm"):
        model[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return model.eval()


class InParts(nn.Module):
    """Asks a model about one utterance after the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(one) for one in torch.split(x, 1)])


class FromSize(nn.Module):
    """Gives other logits in batches of at least `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.model, self.size = network(), size

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits.flip(1) if len(x) >= self.size else logits


class Decoy(nn.Module):
    """Gets its logits by a way without gradients, and gradients by one that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.detach())
        return logits + 0 * x.sum()


class Loudest(nn.Module):
    """Divides by the largest value in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x / x.abs().amax())
        return logits


class Pooled(nn.Module):
    """Takes any length: three filters, their mean over time, or their largest value."""

    def __init__(self, pool: Callable[..., Tensor] = torch.mean, shift: float = 0.0) -> None:
        super().__init__()
        with global_seed(8, "filters"):
            self.filters = nn.Conv1d(1, CLASSES, 1, bias=False)
        self.pool, self.shift = pool, shift

    def forward(self, x: Tensor) -> Tensor:
        shift = self.shift * torch.tensor([1.0, 0.0, 0.0])
        return self.pool(self.filters(x.flatten(1)[:, None]).square(), dim=2) - shift


class Moody(nn.Module):
    """Draws noise from NumPy from the fifth pass on."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.passes = network(), 0
        self.draws = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        logits: Tensor = self.model(x)
        return logits + (self.passes > 4) * torch.from_numpy(self.draws.normal(size=3)).float()


def folded_gradient(model: nn.Module) -> nn.Module:
    """Return a model whose backward pass is wrong although its output is right."""
    return Then(model, lambda logits: logits.detach() + (0.2 * logits - 0.2 * logits.detach()))


@dataclass(frozen=True, kw_only=True)
class Downhill(PGD):
    """PGD with the sign of the loss the wrong way round."""

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        return super().iterates(replace(problem, targeted=not problem.targeted))


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """A random corner of the ball."""

    radius: float = 0.3

    @property
    def ball(self) -> Ball:
        return Linf(self.radius)

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        signs = torch.randn(problem.x.shape, generator=problem.random()).sign()
        # A look at the model, so that a random search is given as many tries.
        problem.scores(problem.x)
        yield (problem.x + self.radius * signs).clamp(*self.bounds)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(8, 1, 6, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def y(x) -> Tensor:
    with torch.no_grad():
        return network()(x).argmax(dim=1)


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def pgd(radius: float, kind: type[PGD] = PGD, step: float = 0.2) -> PGD:
    """Return ten steps; `step` is a share of the radius."""
    return kind(epsilon=radius, step=step * radius, steps=10)


Check = Callable[[nn.Module, Tensor, Tensor], Finding]


def case(model: nn.Module, x: Tensor, y: Tensor | None = None, **said: Any) -> Case:
    """Return a model under check, called net, with draws from a seed."""
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    of_system = {key: said.pop(key) for key in ("exact", "multi_label") if key in said}
    system = System(name="net", model=model, **of_system)
    return Case(**{"system": system, "x": x, "y": y, "generator": draws()} | said)


def asked(check: Any, *, of: dict[str, Any] | None = None, **settings: Any) -> Check:
    """Return what asks a check about a model; `of` is said of the case, the rest to the check."""
    return lambda m, x, y: check(case(m, x, y, **(of or {})), **settings)


def on_planted(attack: Attack) -> Check:
    return asked(checks.planted, of={"inner_points": 40}, attack=attack)


def large(kind: type[PGD], step: float = 0.2, *, standing: Sequence[int] | None = None) -> Check:
    """Have an attack in large balls; all but those standing, where given, fell in a smaller."""

    def check(m: nn.Module, x: Tensor, y: Tensor) -> Finding:
        fallen = torch.full((len(x),), standing is not None)
        fallen[list(standing or ())] = False
        return of_attacks.large_epsilon(
            case(m, x, y), attack=lambda radius: pgd(radius, kind, step), fallen=fallen
        )

    return check


def filled(m: nn.Module, x: Tensor, y: Tensor) -> Finding:
    """Compare with the same sound and as much silence behind it."""
    sound = 0.5 * x.flatten(1)
    longer = torch.cat([sound, torch.zeros_like(sound)], dim=1)
    given = sound if isinstance(m, Pooled) else 0.5 * x
    return of_answers.padding(case(m, given, y, longer=longer))


mode = asked(of_answers.evaluation_mode)
logits = asked(of_answers.outputs_are_logits)
yes_or_no = asked(of_answers.outputs_are_logits, of={"multi_label": True})
agree = asked(of_answers.deterministic)
averaged = asked(of_answers.deterministic, of={"eot_draws": 16})
apart = asked(of_answers.batch_independence)
zeros = asked(of_gradients.zero_gradients)
truth = asked(of_gradients.gradient_is_true)
by_bpda = asked(of_gradients.gradient_is_true, of={"exact": False})


def on_sweep(step: float) -> Check:
    return asked(of_attacks.restarts_and_steps, of={"attack": pgd(0.2, step=step)})


TABLE: dict[str, tuple[Check, Callable[[], nn.Module], str]] = {
    "mode": (mode, network, "passed"),
    "mode, training": (mode, lambda: network().train(), "error"),
    "mode, stuck": (mode, Stuck, "error"),
    "logits": (logits, network, "passed"),
    "logits, softmax": (logits, lambda: Then(network(), lambda z: z.softmax(1)), "error"),
    "logits, log-softmax": (logits, lambda: Then(network(), lambda z: z.log_softmax(1)), "note"),
    "logits, sigmoid": (logits, lambda: Then(network(), torch.sigmoid), "error"),
    "logits, sigmoid, then moved": (
        logits,
        lambda: Then(network(), lambda z: torch.stack([*z.sigmoid().unbind(1)], 1).view(-1, 3)),
        "error",
    ),
    "logits, sigmoid by hand": (
        logits,
        lambda: Then(network(), lambda z: (1 / (1 + torch.exp(-40 * z))).detach()),
        "error",
    ),
    "logits, between 0 and 1 by chance": (
        logits,
        lambda: Then(network(), lambda z: 0.5 + 0.01 * z),
        "passed",
    ),
    "logits, multi-label": (yes_or_no, network, "warning"),
    "logits, multi-label, sigmoid": (yes_or_no, lambda: Then(network(), torch.sigmoid), "error"),
    "logits, positive": (logits, lambda: Then(network(), torch.exp), "passed"),
    "deterministic": (agree, network, "passed"),
    "deterministic, noise": (agree, lambda: Noisy(network()), "error"),
    "deterministic, stuck dropout": (agree, Stuck, "error"),
    "deterministic, EOT": (averaged, lambda: Noisy(network()), "note"),
    "batch": (apart, network, "passed"),
    "batch, statistics": (apart, batch_statistics, "error"),
    "batch, in parts": (apart, lambda: InParts(network()), "passed"),
    "batch, from 16": (apart, lambda: FromSize(16), "error"),
    "batch, from 32": (apart, lambda: FromSize(32), "error"),
    "batch, loudest": (apart, Loudest, "error"),
    "padding, one length": (filled, network, "passed"),
    "padding, loudest": (filled, Loudest, "error"),
    "padding, mean": (filled, Pooled, "note"),
    "padding, mean and threshold": (filled, lambda: Pooled(shift=0.005), "warning"),
    "padding, largest": (filled, lambda: Pooled(torch.amax), "passed"),
    "padding, noise": (filled, lambda: Noisy(network()), "not-measured"),
    "batch, noise": (apart, lambda: Noisy(network()), "not-measured"),
    "zeros": (zeros, network, "passed"),
    "zeros, rounded": (zeros, lambda: Rounded(network()), "error"),
    "zeros, detached": (zeros, lambda: Then(network(), torch.Tensor.detach), "error"),
    "zeros, too sure": (zeros, lambda: Then(network(), lambda z: 1e4 * z), "warning"),
    "truth": (truth, network, "passed"),
    "truth, rounded": (
        truth,
        lambda: Rounded(network(), straight_through=True),
        "error",
    ),
    "truth, BPDA": (by_bpda, lambda: Rounded(network(), straight_through=True), "note"),
    "truth, 16 bits": (
        truth,
        lambda: Coarse(network()),
        "not-measured",
    ),
    "truth, wrong": (truth, lambda: folded_gradient(network()), "error"),
    "truth, noise": (truth, lambda: Noisy(network()), "passed"),
    "truth, own noise": (
        truth,
        lambda: nn.Sequential(GaussianNoise(0.1, draws()), network()),
        "passed",
    ),
    "truth, noise and wrong": (
        truth,
        lambda: Noisy(folded_gradient(network())),
        "error",
    ),
    "truth, noise from elsewhere": (truth, Moody, "not-measured"),
    "truth, detached": (
        truth,
        lambda: Then(network(), torch.Tensor.detach),
        "not-measured",
    ),
    "large": (large(PGD), network, "passed"),
    "large, downhill": (large(Downhill), network, "error"),
    "large, short": (large(PGD, step=1e-4), network, "error"),
    "large, rounded": (large(PGD, step=1e-3), lambda: Rounded(network()), "error"),
    "large, all fell": (large(Downhill, standing=()), network, "passed"),
    "large, one did not": (large(Downhill, standing=(3,)), network, "passed"),
    "large, several did not": (large(Downhill, standing=range(1, 6)), network, "error"),
    "large, one utterance": (
        lambda m, x, y: large(Downhill)(m, x[:1], y[:1]),
        network,
        "not-measured",
    ),
    "sweep": (on_sweep(0.25), network, "passed"),
    "sweep, short": (on_sweep(1e-3), network, "warning"),
    "planted": (on_planted(pgd(0.3)), network, "passed"),
    "planted, L2": (on_planted(PGD(epsilon=1.5, step=0.3, steps=10, norm=L2)), network, "passed"),
    "planted, behind a transform": (
        on_planted(pgd(0.3)),
        lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), network()),
        "passed",
    ),
    "planted, in parts": (on_planted(pgd(0.3)), lambda: InParts(network()), "passed"),
    "planted, decoy": (on_planted(pgd(0.3)), Decoy, "error"),
    "planted, downhill": (on_planted(pgd(0.3, Downhill)), network, "error"),
    "planted, noise": (on_planted(Noise()), network, "error"),
    "planted, short": (on_planted(pgd(0.3, step=1e-3)), network, "error"),
    "planted, rounded": (on_planted(pgd(0.3)), lambda: Rounded(network()), "error"),
    "planted, constant": (
        on_planted(pgd(0.3)),
        lambda: nn.Sequential(network(), nn.Threshold(1e9, 0.0)),
        "not-measured",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_check(name, x, y) -> None:
    check, build, expected = TABLE[name]
    model = build()
    before = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    finding = check(model, x, y)
    assert finding.severity == expected, finding.statement
    assert finding.subject == "net"
    assert finding.statement.endswith(".")
    assert json.loads(json.dumps(finding.to_json(), allow_nan=False))["check"] == finding.check
    assert [module.training for module in model.modules()] == before
    if not isinstance(model, Stuck | Noisy):
        assert torch.equal(torch.random.get_rng_state(), state)


def test_random_state_is_left_as_it_was(x) -> None:
    state = torch.random.get_rng_state()
    agree(Noisy(network()), x, x)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_slopes_are_scipys_finite_differences(x, y) -> None:
    model, point, label = network().double(), x[:1].double(), y[:1]
    problem = Problem(model=model, x=point, y=label)
    slopes, differences = _slopes(problem, 1e-5, 2, draws())

    def loss(flat: np.ndarray) -> float:
        with torch.no_grad():
            out = model(torch.from_numpy(flat).view(1, 1, 6, 8))[0]
        return float(max(out[k] for k in range(CLASSES) if k != int(label)) - out[int(label)])

    gradient = approx_fprime(point.flatten().numpy(), loss, 1e-7)
    assert float(slopes[0, 0]) == pytest.approx(np.abs(gradient).sum(), rel=1e-4)
    assert differences.flatten().tolist() == pytest.approx(slopes.flatten().tolist(), rel=1e-4)


def test_zero_gradients_leave_padding_out(x, y) -> None:
    mask = torch.zeros(8, 1, 6, 8, dtype=torch.bool)
    mask[..., :4] = True

    class HalfBlind(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen = torch.cat([inputs[..., :4], inputs[..., 4:].detach()], dim=-1)
            logits: Tensor = seen.flatten(1) @ torch.linspace(-1, 2, 48 * 3).view(48, 3)
            return logits

    whole = zeros(HalfBlind(), x, y)
    assert whole.evidence["margin_elements"] == 0.5
    masked = of_gradients.zero_gradients(case(HalfBlind(), x, y, mask=mask))
    assert masked.evidence["margin_elements"] == 0.0


def within(x: Tensor, adversarial: Tensor, ball: Ball, bounds: Bounds, **said: Any) -> Finding:
    attack = PGD(epsilon=ball.radius, norm=type(ball), bounds=bounds)
    return of_attacks.inside_ball(
        case(network(), x, attack=attack, **said), adversarial=adversarial
    )


def moved(x: Tensor, by: float) -> Tensor:
    return x + by * torch.randn(x.shape, generator=draws()).sign()


@pytest.mark.parametrize(
    ("moved", "attacked", "severity"),
    [
        ((0, 0), (4, 4), "error"),
        ((1, 3), (4, 4), "warning"),
        ((1, 2), (4, 2), "passed"),
        ((0, 0), (0, 0), "not-measured"),
        ((np.nan, 0), (np.nan, 3), "error"),
    ],
)
def test_attacks_that_move_nothing(moved: Any, attacked: Any, severity: str) -> None:
    rows = pd.DataFrame({"attack": ["noise", "pgd"], "moved": moved, "attacked": attacked})
    assert checks.attacks_move("x", rows).severity == severity
    assert checks.attacks_move("x", rows[["attack"]]).severity == "not-measured"


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.1 * 48**0.5)], ids=["Linf", "L2"])
@pytest.mark.parametrize(
    ("by", "bounds", "expected"),
    [(0.1, (-1.0, 2.0), "passed"), (0.11, (-1.0, 2.0), "error"), (0.1, (0.0, 1.0), "error")],
)
def test_inside_ball(x, ball, by, bounds, expected) -> None:
    finding = within(x, moved(x, by), ball, bounds)
    assert finding.severity == expected
    assert finding.evidence["radius"] == ball.radius


def sound(step: float) -> tuple[Tensor, Tensor]:
    """Return 16-bit waveforms and a change of 3 / 2**15 per sample plus `step`."""
    clean = torch.randint(-9000, 9000, (2, 400), generator=draws()) / 2**15
    return clean, moved(clean, (3 + step) / 2**15)


@pytest.mark.parametrize(("step", "rounded"), [(0.0, False), (0.6, True)])
def test_wav_round_trip(step, rounded) -> None:
    clean, adversarial = sound(step)
    ball = Linf((3 + step) / 2**15)
    finding = within(clean, adversarial, ball, (-1, 1))
    assert finding.severity == "passed"
    assert ("by the rounding of the file alone" in finding.statement) is rounded
    written = np.rint(adversarial.numpy() * 2**15) / 2**15
    expected = np.abs(written - clean.numpy()).max()
    assert finding.evidence["distance_as_wav"] == pytest.approx(expected, abs=1e-9)


def test_a_waveform_beyond_full_scale_does_not_survive_its_file() -> None:
    clean = torch.full((1, 100), 1.2)
    finding = within(clean, clean, Linf(0.01), (-2, 2))
    assert finding.severity == "error"
    assert finding.evidence["distance"] == 0
    assert finding.evidence["distance_as_wav"] == pytest.approx(0.2, abs=1e-3)


def test_clip_keeps_clean(x) -> None:
    assert of_answers.clip_keeps_clean(case(network(), x)).severity == "passed"
    finding = of_answers.clip_keeps_clean(case(network(), 2 * x - 0.5))
    assert finding.severity == "error"
    expected = ((2 * x < 0.5) | (2 * x > 1.5)).double().mean()
    assert finding.evidence["changed"] == pytest.approx(float(expected))


@pytest.mark.parametrize("seed", range(4))
def test_random_models_give_no_false_errors(x, y, seed) -> None:
    random = torch.Generator().manual_seed(seed)
    noisy = case(
        Noisy(network()), x, y, attack=pgd(0.3), generator=random, eot_draws=16, inner_points=20
    )
    with global_seed(seed, "noise"):
        wide = of_attacks.large_epsilon(noisy, attack=pgd, fallen=torch.zeros(8, dtype=torch.bool))
        found = checks.planted(noisy.first(4))
    assert wide.severity == "passed", wide.statement
    assert found.severity in ("passed", "not-measured"), found.statement


def test_determinism_and_independence_judge_by_one_look(x) -> None:
    """What is random in batches of one, or seldom, is random for both."""
    moody = case(Moody(), x)
    assert moody.seen.random
    assert of_answers.deterministic(moody).severity == "error"
    assert of_answers.batch_independence(moody).severity == "not-measured"
    assert of_answers.padding(moody).severity == "not-measured"


def test_features_are_what_the_last_layer_reads(x) -> None:
    model = network()
    with torch.no_grad():
        expected = model[:-1](x)
        assert torch.equal(Features(model, x)(x), expected)
        assert torch.equal(Features(nn.Sequential(nn.Identity(), model), x)(x), expected)
        scaled = Then(model, lambda logits: 2 * logits)
        assert torch.equal(Features(scaled, x)(x), scaled(x))


@pytest.mark.parametrize("planted", [1, 2])
@pytest.mark.parametrize("dimensions", [2, 3, 30])
def test_planes_exist_where_a_linear_program_finds_one(planted, dimensions) -> None:
    rng = np.random.default_rng(planted + 10 * dimensions)
    seen = set()
    for trial in range(12):
        inner = rng.normal(size=(15, dimensions))
        points = rng.normal(size=(planted, dimensions)) * (1.0 + 0.3 * trial)
        # Feasible w, c with w·a + c <= -1 for inner and >= 1 for planted points?
        rows = np.vstack([np.c_[inner, np.ones(15)], -np.c_[points, np.ones(planted)]])
        program = linprog(
            np.zeros(dimensions + 1), A_ub=rows, b_ub=-np.ones(len(rows)), bounds=(None, None)
        )
        plane = separate(inner, points, closeness=0.999, spread=3.0)
        assert (plane is not None) == (program.status == 0)
        seen.add(plane is not None)
        if plane is not None:
            scores = np.vstack([inner, points]) @ plane[0] + plane[1]
            assert scores[:15].max() < 0 < scores[15:].min()
            assert np.abs(scores).max() == pytest.approx(3.0)
    assert True in seen


def test_the_direction_is_that_of_a_support_vector_machine() -> None:
    rng = np.random.default_rng(1)
    inner, points = rng.normal(size=(40, 5)), rng.normal(size=(1, 5)) + 4
    plane = separate(inner, points, closeness=0.5, spread=1.0)
    assert plane is not None
    machine = SVC(kernel="linear", C=1e6).fit(np.vstack([inner, points]), [0] * 40 + [1])
    cosine = plane[0] @ machine.coef_[0]
    cosine /= np.linalg.norm(plane[0]) * np.linalg.norm(machine.coef_[0])
    assert cosine == pytest.approx(1.0, abs=1e-3)


def test_planted_leaves_padding_alone(x) -> None:
    mask = torch.zeros(1, 1, 1, 8, dtype=torch.bool)
    mask[..., :5] = True
    finding = checks.planted(case(network(), x, mask=mask, inner_points=40), attack=pgd(0.3))
    assert finding.severity == "passed"


def test_planted_discounts_what_a_random_search_finds(x) -> None:
    # One feature only: half of all corners lie beyond the planted one, more or less.
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Linear(1, 2))
    attack = PGD(epsilon=0.3, step=0.001, steps=60)
    finding = checks.planted(case(model, x, inner_points=3), attack=attack)
    assert finding.evidence["too_easy"] > 0
    assert finding.evidence["random_success_rate"] > 0


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda x, y: on_planted(replace(pgd(0.3), targeted=True))(network(), x, y),
            SettingError,
            "targeted is True, expected False",
        ),
        (
            lambda x, y: asked(of_attacks.restarts_and_steps, of={"attack": PGD(epsilon=0.0)})(
                network(), x, y
            ),
            SettingError,
            "epsilon is 0.0, expected a number above 0",
        ),
        (
            lambda x, y: within(x, x[:2], Linf(0.1), (0, 1)),
            ShapeError,
            r"adversarial has shape \(2, 1, 6, 8\), expected \(8, 1, 6, 8\), that of x",
        ),
        (
            lambda x, y: Finding("a", "b", "fatal", "c.", {}),  # type: ignore[arg-type]
            SettingError,
            "severity is 'fatal', expected one of error, not-measured, note, passed, warning",
        ),
    ],
)
def test_refusals(call, error, sentence, x, y) -> None:
    with pytest.raises(error, match=sentence):
        call(x, y)


def test_fgsm_can_be_the_attack_of_every_check(x, y) -> None:
    finding = of_attacks.large_epsilon(case(network(), x, y), attack=lambda r: FGSM(epsilon=r))
    assert len(finding.evidence["accuracies"]) == 2
    planted = checks.planted(case(network(), x), attack=FGSM(epsilon=0.3))
    assert planted.evidence["tries"] >= 1


def test_equal_values_in_silence_are_no_wrong_gradients(y) -> None:
    # At a tie of two elements a maximum has no derivative, and no gradient could be right.
    pooled = nn.Sequential(nn.MaxPool2d(2, 2), nn.Upsample(scale_factor=2), network())
    finding = truth(pooled, torch.zeros(8, 1, 6, 8), y)
    assert finding.severity == "passed", finding.statement
