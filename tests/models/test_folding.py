from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from servax.models import VGG16, FrameTransformer, feature_extractor, frozen


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trained():
    """Return a network that has seen a few batches, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = VGG16(width=4)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        for seed in range(3):
            optimiser.zero_grad()
            logits = network(draw(8, 1, 64, 40, seed=seed))
            nn.functional.cross_entropy(logits, torch.arange(8) % 4).backward()
            optimiser.step()
    return network


def test_logits_and_input_gradients_stay_the_same(trained):
    x = draw(4, 1, 64, 90, seed=9).requires_grad_(True)
    twin = frozen(trained)
    trained.eval()
    torch.testing.assert_close(twin(x), trained(x), rtol=1e-4, atol=1e-4)
    (folded,) = torch.autograd.grad(twin(x)[:, 0].sum(), x)
    (plain,) = torch.autograd.grad(trained(x)[:, 0].sum(), x)
    torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4)


def test_no_batch_norm_and_no_parameter_gradient_is_left(trained):
    twin = frozen(trained)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert not any(module.training for module in twin.modules())


def test_the_original_is_untouched(trained):
    before = copy.deepcopy(trained.state_dict())
    frozen(trained)
    after = trained.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert all(module.training for module in trained.modules())


def test_an_extractor_folds_too(trained):
    trained.eval()
    extractor = feature_extractor(trained, "conv3_3")
    x = draw(2, 1, 64, 90)
    twin = frozen(extractor)
    torch.testing.assert_close(twin(x), extractor(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())


def test_a_batch_norm_with_no_convolution_before_it_stays():
    layers = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2))
    layers(draw(4, 1, 8, 8))
    x = draw(2, 1, 8, 8, seed=1)
    twin = frozen(layers)
    torch.testing.assert_close(twin(x), layers.eval()(x))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in twin.modules()) == 2


def test_a_purifier_network_keeps_its_outputs():
    network = FrameTransformer(mels=16, heads=2, blocks=2, feedforward=32)
    x = draw(2, 1, 16, 30)
    torch.testing.assert_close(frozen(network)(x), network.eval()(x))
