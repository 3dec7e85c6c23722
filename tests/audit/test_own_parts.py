"""Attacks and defences of one's own: what is refused, and what decides the hash of a stage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from servax.defences import Bpda, Defended
from servax.errors import PathError, SettingError
from servax.evaluation.loading import load_system
from servax.evaluation.options import defended
from servax.evaluation.own_code import hash_of_code, own_attacks, own_defence
from servax.evaluation.suites import Suite
from servax.evaluation.systems import System
from servax.evaluation.threats import Budget
from servax.perturbation import L2

MODULE = """
import torch
from dataclasses import dataclass
from servax.attacks import PGD
from servax.perturbation import Linf

class Half(torch.nn.Module):
    def forward(self, x):
        return x / 2

class Blind(Half):
    knowledge = "bpda"
    def forward(self, x):
        return super().forward(x).detach()

class Shorter(torch.nn.Module):
    def forward(self, x):
        return x[..., 1:]

class Halved(torch.nn.Module):
    def forward(self, x):
        return x.half()

class Alone(torch.nn.Module):
    def forward(self, x):
        assert len(x) == 1, "one at a time"
        return x

class Failing(torch.nn.Module):
    def forward(self, x):
        raise ValueError("no")

@dataclass(frozen=True, kw_only=True)
class Own(PGD):
    radius: float = 0.5

@dataclass(frozen=True, kw_only=True)
class Stubborn(PGD):
    @property
    def ball(self):
        return Linf(0.5)

def nothing():
    return 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module of its own for each test, since Python keeps what it imported."""
    name = f"parts_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def subject() -> System:
    return load_system("crnn-synthetic")


def test_an_own_attack_gets_the_ball_of_the_audit(module: str) -> None:
    budget = Budget(radius=0.1, norm="l2", bounds=(-1.0, 1.0))
    (named,) = own_attacks([f"mine={module}:Own"], Suite("smoke", budget))
    assert (named.name, named.attack.ball, named.attack.bounds) == ("mine", L2(0.1), (-1.0, 1.0))
    (unnamed,) = own_attacks([f"{module}:Own"], Suite("smoke", budget))
    assert (unnamed.name, unnamed.code) == ("Own", named.code)


@pytest.mark.parametrize(
    ("option", "error", "sentence"),
    [
        ("pgd={}:Own", SettingError, "the name of an attack is 'pgd', expected letters"),
        ("../x={}:Own", SettingError, "the name of an attack is '../x', expected letters"),
        ("{}:Stubborn", SettingError, "expected one with the ball and the bounds of the audit"),
        ("{}:nothing", PathError, "makes a int, expected a servax.attacks.Attack"),
        ("{}:Half", PathError, "makes a Half, expected a servax.attacks.Attack"),
        ("{}:Onw", PathError, "has no Onw. Did you mean 'Own'?"),
        ("pgd", SettingError, "attack is 'pgd', expected NAME=package.module:Name"),
    ],
)
def test_what_is_no_attack_is_refused(
    module: str, option: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=re.escape(sentence)):
        own_attacks([option.format(module)], Suite("smoke", Budget()))


def test_an_own_defence_stands_before_the_model(module: str, subject: System) -> None:
    system = defended(subject, f"half={module}:Half", seed=0)
    assert (system.name, system.exact, type(system.model)) == ("half", True, Defended)
    x = torch.rand(1, 1, 64, 373)
    torch.testing.assert_close(system.model(x), subject.model(x / 2))


def test_the_identity_stands_for_a_gradient_that_is_none(module: str, subject: System) -> None:
    system = defended(subject, f"{module}:Blind", seed=0)
    assert (system.name, system.exact, type(system.model)) == ("Blind", False, Bpda)
    x = torch.rand(1, 1, 64, 373, requires_grad=True)
    (gradient,) = torch.autograd.grad(system.model(x)[0, 0], x)
    half = (x / 2).detach().requires_grad_()
    (expected,) = torch.autograd.grad(subject.model(half)[0, 0], half)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Shorter", "turns (2, 1, 64, 373) into (2, 1, 64, 372), expected a defence that gives"),
        ("Failing", "fails on two inputs of zeros (2, 1, 64, 373), expected a defence that gives"),
        ("Alone", "fails on two inputs of zeros (2, 1, 64, 373)"),
        ("Halved", "turns torch.float32 into torch.float16, expected a defence that gives"),
        ("nothing", "makes a int, expected a torch.nn.Module"),
    ],
)
def test_what_is_no_defence_is_refused(
    module: str, subject: System, name: str, sentence: str
) -> None:
    with pytest.raises(PathError, match=re.escape(sentence)):
        own_defence(f"{module}:{name}", subject)


def test_changed_code_is_another_defence(module: str, subject: System) -> None:
    path = f"{module}:Half"
    before = hash_of_code(path, own_defence(path, subject))
    file = Path(f"{module}.py")
    file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert hash_of_code(path, own_defence(path, subject)) != before
