from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from servax.errors import SettingError
from servax.purifier import LossWeights
from servax.purifier.losses import (
    combined_gradient,
    discriminator_loss,
    feature_loss,
    generator_loss,
    pixel_loss,
)

DRAWS = np.random.default_rng(0)
X, Y = DRAWS.random((2, 3, 1, 4, 5))
LOGITS_X, LOGITS_Y = DRAWS.normal(0.0, 4.0, (2, 6))


def test_pixel_loss_is_the_root_mean_square_error_of_an_utterance_on_average() -> None:
    expected = np.mean([np.sqrt(np.mean((x - y) ** 2)) for x, y in zip(X, Y, strict=True)])
    assert float(pixel_loss(torch.tensor(X), torch.tensor(Y))) == pytest.approx(expected)


def test_pixel_loss_by_hand() -> None:
    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    y[0, 0, 0, 0] = 0.8  # RMSE .4
    y[1] = 0.2  # RMSE .2
    assert float(pixel_loss(x, y)) == pytest.approx(0.3)


def test_pixel_loss_has_a_gradient_where_nothing_differs() -> None:
    purified = torch.tensor(X, requires_grad=True)
    pixel_loss(torch.tensor(X), purified).backward()
    assert purified.grad is not None
    assert (purified.grad == 0).all()


def test_feature_loss_is_the_mean_absolute_difference() -> None:
    expected = np.abs(X - Y).mean()
    assert float(feature_loss(torch.tensor(X), torch.tensor(Y))) == pytest.approx(expected)


def test_adversarial_losses_are_binary_cross_entropies() -> None:
    original, purified = torch.tensor(LOGITS_X), torch.tensor(LOGITS_Y)
    entropy = nn.BCEWithLogitsLoss()
    real, fake = torch.ones(6).double(), torch.zeros(6).double()
    expected = entropy(original, real) + entropy(purified, fake)
    torch.testing.assert_close(discriminator_loss(original, purified), expected)
    torch.testing.assert_close(generator_loss(purified), entropy(purified, real))


def test_adversarial_losses_are_equation_6() -> None:
    d_x, d_y = (1 / (1 + np.exp(-logits)) for logits in (LOGITS_X, LOGITS_Y))
    original, purified = torch.tensor(LOGITS_X), torch.tensor(LOGITS_Y)
    expected = -np.mean(np.log(d_x)) - np.mean(np.log(1 - d_y))
    assert float(discriminator_loss(original, purified)) == pytest.approx(expected)
    assert float(generator_loss(purified)) == pytest.approx(-np.mean(np.log(d_y)))


def test_adversarial_losses_stay_finite_when_the_discriminator_is_sure() -> None:
    sure = torch.tensor([500.0])
    assert float(discriminator_loss(-sure, sure)) == pytest.approx(1000.0)
    assert float(generator_loss(-sure)) == pytest.approx(500.0)


def test_the_adversarial_gradient_is_cut_to_a_share_of_the_others() -> None:
    gradient = torch.tensor([[[[3.0, 4.0]]]])  # of length 5
    steep = torch.tensor([[[[0.0, 20.0]]]])
    gentle = torch.tensor([[[[0.3, 0.0]]]])
    cut = combined_gradient(gradient, steep, limit=0.1)
    torch.testing.assert_close(cut, torch.tensor([[[[3.0, 4.5]]]]))
    assert torch.equal(combined_gradient(gradient, gentle, limit=0.1), gradient + gentle)
    assert torch.equal(combined_gradient(gradient, steep, limit=None), gradient + steep)
    none = torch.zeros_like(gradient)
    assert torch.equal(combined_gradient(gradient, none, limit=0.1), gradient)
    assert torch.equal(combined_gradient(none, steep, limit=0.1), none)


@pytest.mark.parametrize("name", ["adversarial", "pixel", "feature"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_weights_refuse(name: str, value: float) -> None:
    sentence = f"{name} is {value}, expected a finite number of at least 0."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        LossWeights(**{name: value})


def test_something_must_tie_output_to_input() -> None:
    sentence = (
        "pixel, feature is (0, 0), expected at least one above 0, or nothing ties output to input."
    )
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        LossWeights(pixel=0, feature=0)
    LossWeights(pixel=0)
    LossWeights(feature=0, adversarial=0)
