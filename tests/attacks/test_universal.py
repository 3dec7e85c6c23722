"""One change for everybody: closed forms on a linear model, unseen utterances, refusals."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from servax.attacks import RandomNoise, Universal
from servax.errors import SettingError, ShapeError
from servax.perturbation import L2, Linf, SignalToNoise, into_16_bit
from servax.runtime.samples import STEP_16_BIT

SAMPLES = 400
WIDE = {"bounds": (-1.0, 1.0)}


class LinearOfSound(nn.Module):
    """Logits (w·x, -w·x): the best change of class 0 lies along -w for everybody."""

    def __init__(self):
        super().__init__()
        self.weight = torch.randn(SAMPLES, generator=seeded(3), dtype=torch.float64)

    def forward(self, x):
        score = x @ self.weight
        return torch.stack([score, -score], dim=1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sounds(count, seed=1):
    loudness = torch.rand(count, 1, generator=seeded(seed + 1)) * 0.1 + 0.01
    noise = torch.randn(count, SAMPLES, generator=seeded(seed))
    return into_16_bit((loudness * noise).clamp(-1, 1)).double()


@pytest.mark.parametrize("norm", [Linf, L2, SignalToNoise])
def test_on_a_linear_model_it_is_the_direction_of_the_weights(norm):
    model, train, test = LinearOfSound(), sounds(10), sounds(5, seed=7)
    y = torch.zeros(10, dtype=torch.int64)
    epsilon = {Linf: 0.01, L2: 0.1, SignalToNoise: 20.0}[norm]
    attack = Universal(norm=norm, epsilon=epsilon, steps=12, batch_size=4, **WIDE)
    change = attack.fit(model, train, y, generator=seeded())(model, test, y[:5]) - test
    downhill = -model.weight.detach()
    for clean, moved in zip(test, change, strict=True):
        if norm is Linf:
            expected = 0.01 * downhill.sign()
        else:
            radius = 0.1 if norm is L2 else 0.1 * math.sqrt(float((clean**2).sum()))
            expected = radius * downhill / math.sqrt(float((downhill**2).sum()))
        torch.testing.assert_close(moved, expected, rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("sixteen_bit", [False, True])
@pytest.mark.parametrize("norm", [Linf, SignalToNoise])
def test_it_fools_those_it_was_not_fitted_on_more_than_noise_does(norm, sixteen_bit):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(SAMPLES, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    train, test = sounds(60), sounds(40, seed=9)
    epsilon = 0.02 if norm is Linf else 10.0
    settings = {"norm": norm, "epsilon": epsilon, "sixteen_bit": sixteen_bit, **WIDE}
    said = [model(x).argmax(1) for x in (train, test)]
    fitted = Universal(steps=40, **settings).fit(model, train, said[0], generator=seeded())
    found = fitted(model, test, said[1])
    ball = fitted.ball.around(test)
    assert (ball.norm(found - test) <= ball.radius * (1 + 1e-9)).all()
    if sixteen_bit:
        assert torch.equal(found / STEP_16_BIT, (found / STEP_16_BIT).round())
    noise = RandomNoise(**settings)(model, test, said[1], generator=seeded(2))
    fooled, by_noise = (
        float((model(z).argmax(1) != said[1]).float().mean()) for z in (found, noise)
    )
    assert fooled > by_noise + 0.2
    again = Universal(steps=40, **settings).fit(model, train, said[0], generator=seeded())
    assert torch.equal(again.direction, fitted.direction)


def test_a_target_is_led_to_and_a_mask_is_kept():
    model, train = LinearOfSound(), sounds(10)
    wanted = torch.ones(10, dtype=torch.int64)
    attack = Universal(norm=SignalToNoise, epsilon=5.0, targeted=True, steps=10, **WIDE)
    fitted = attack.fit(model, train, wanted, generator=seeded())
    mask = torch.arange(SAMPLES) < 350
    found = fitted(model, train, wanted, mask=mask)
    assert torch.equal(found[:, 350:], train[:, 350:])
    assert bool((model(fitted(model, train, wanted)).argmax(1) == wanted).all())


def test_it_is_refused_before_it_is_fitted_and_on_another_length():
    model, x, y = LinearOfSound(), sounds(4), torch.zeros(4, dtype=torch.int64)
    sentence = "direction is None, expected one of fit(model, x, y, generator=...)."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        Universal(**WIDE)(model, x, y)
    fitted = replace(Universal(**WIDE), direction=torch.zeros(300))
    with pytest.raises(
        ShapeError, match=r"^x has shape \(4, 400\), expected \(B, 300\), as it was"
    ):
        fitted(model, x, y)
