from __future__ import annotations

import pytest
import torch
from torch import nn

from servax.attacks import APGD, PGD, FastGradients
from servax.attacks.logits import labelled, with_gradients
from servax.errors import SettingError
from servax.models import VGG16


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return VGG16(width=4).eval().requires_grad_(False)


def test_scores_are_those_of_the_model_to_the_bit(network):
    x = draw(3, 1, 64, 40)
    with torch.no_grad():
        assert torch.equal(FastGradients(network)(x), network(x))


def test_a_gradient_is_rounded_as_bfloat16_rounds(network):
    leaf = draw(3, 1, 64, 40).requires_grad_(True)
    (fast,) = torch.autograd.grad(FastGradients(network)(leaf)[:, 0].sum(), leaf)
    (exact,) = torch.autograd.grad(network(leaf)[:, 0].sum(), leaf)
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, exact)
    cosine = nn.functional.cosine_similarity(fast.flatten(1), exact.flatten(1))
    assert bool((cosine > 0.9).all())


@pytest.mark.parametrize("attack", [PGD(steps=5), APGD(steps=5)])
def test_a_fast_attack_stays_within_its_reach_and_works(network, attack):
    x, y = draw(4, 1, 64, 40), torch.tensor([0, 1, 2, 3])
    y = network(x).argmax(dim=1)
    moved = attack(FastGradients(network), x, y, generator=torch.Generator().manual_seed(0))
    assert float((moved - x).abs().max()) <= 0.02 + 1e-6

    def loss(z):
        return float(nn.functional.cross_entropy(network(z), y))

    assert loss(moved) > loss(x)


def test_float32_is_the_model_itself_and_has_no_label(network):
    assert with_gradients(network, "float32") is network
    assert labelled("vgg16", "float32") == "vgg16"
    assert labelled("vgg16", "bfloat16") == "vgg16 (bfloat16 gradients)"


def test_another_precision_is_refused(network):
    with pytest.raises(SettingError, match="gradients is 'float16', expected one of"):
        with_gradients(network, "float16")
