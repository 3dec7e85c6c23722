"""What holds for every recogniser; VGG16 has tests of its own beside these."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from servax.errors import ShapeError
from servax.models import (
    CRNN,
    VGG16,
    ResNet,
    frozen,
    load_network,
    save_network,
)

SMALLEST = {VGG16: 32, ResNet: 16, CRNN: 16}
every = pytest.mark.parametrize("kind", SMALLEST)


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def build(kind, classes=4, width=2, seed=0):
    """Return a small network whose batch norms are not the identity, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(classes=classes, width=width)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


@every
@pytest.mark.parametrize("classes", [2, 4, 7, 12])
@pytest.mark.parametrize("size", [(64, 373), (80, 50), (33, 95), None])
def test_logits_of_spectrograms_of_any_size(kind, classes, size):
    size = size or (SMALLEST[kind], SMALLEST[kind])
    network = build(kind, classes)
    x = draw(3, 1, *size)
    logits = network(x)
    assert logits.shape == (3, classes)
    assert logits.isfinite().all()
    assert network.embed(x).shape == (3, 8 * 2)
    assert (logits.std(dim=0) > 0).all()  # it looks at its input


@every
def test_inputs_of_another_shape_are_refused(kind):
    least = SMALLEST[kind]
    network = build(kind)
    for shape in [
        (64, 64),
        (2, 64, 64),
        (2, 3, 64, 64),
        (2, 1, least - 1, 64),
        (2, 1, 64, least - 1),
    ]:
        sentence = f"x has shape {shape}, expected (B, 1, M, F) with M and F of at least {least}."
        with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
            network(torch.zeros(shape))


@every
def test_an_utterance_does_not_depend_on_the_others_or_on_what_came_before(kind):
    network = build(kind)
    x = draw(5, 1, 64, 90)
    together = network(x)
    assert torch.equal(network(x), together)  # no dropout, no state
    alone = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network(x.flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)


@every
def test_gradients_reach_the_input_and_all_parameters(kind):
    network = build(kind, width=4).train()
    x = draw(4, 1, 64, 70).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        nn.functional.cross_entropy(network(x), torch.arange(4)).backward()
    assert (x.grad != 0).flatten(1).any(dim=1).all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A softmax is the same whatever is added to all its scores: that bias is of no effect.
        assert parameter.grad.abs().sum() > 0 or name == "attention.bias", name


@every
def test_a_frozen_copy_is_the_same_function_without_batch_norm(kind):
    network = build(kind, width=4)
    x = draw(3, 1, 64, 90, seed=1).requires_grad_(True)
    twin = frozen(network.train())
    network.eval()
    torch.testing.assert_close(twin(x), network(x), rtol=1e-4, atol=1e-4)
    (folded,) = torch.autograd.grad(twin(x)[:, 0].sum(), x)
    (plain,) = torch.autograd.grad(network(x)[:, 0].sum(), x)
    torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())


@every
def test_a_recogniser_comes_back_from_disk(kind, tmp_path):
    network = build(kind, classes=5)
    save_network(network, tmp_path, extra={"labels": list("abcde")})
    stored = load_network(tmp_path)
    assert type(stored.network) is kind
    assert stored.network.settings == network.settings
    x = draw(2, 1, 32, 40)
    assert torch.equal(stored.network(x), network(x))


@every
def test_the_seed_decides_the_weights_and_training_moves_them(kind):
    network, twin, other = build(kind), build(kind), build(kind, seed=1)
    x, y = draw(8, 1, 32, 64), torch.arange(8) % 4
    assert torch.equal(network(x), twin(x))
    assert not torch.equal(network(x), other(x))
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(30):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
