from __future__ import annotations

import math
import re

import pytest
import torch

from servax.errors import SettingError, ShapeError
from servax.models import FrameTransformer, FrameTransformerSettings
from servax.models.transformer import Block, positions


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def untrained(**settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FrameTransformer(**settings).eval()


def test_the_papers_network_has_half_a_million_parameters():
    attention = 3 * (64 * 64 + 64) + (64 * 64 + 64)
    feedforward = 64 * 512 + 512 + 512 * 64 + 64
    block = attention + feedforward + 2 * (2 * 64)
    by_hand = 2 * (64 * 64 + 64) + 6 * block + 2 * 64
    assert by_hand == 506_496
    assert sum(p.numel() for p in untrained().parameters()) == by_hand


@pytest.mark.parametrize("frames", [1, 50, 373, 400])
def test_any_number_of_frames_keeps_its_shape(frames):
    assert untrained()(draw(2, 1, 64, frames)).shape == (2, 1, 64, frames)


def layer_norm(x, weight, bias):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + 1e-5) * weight + bias


def block_by_hand(weights, hidden, heads):
    """Return one pre-norm block on tokens (F, M): Vaswani et al. 2017, Xiong et al. 2020."""
    size = hidden.shape[1]
    width = size // heads
    normed = layer_norm(hidden, weights["norm1.weight"], weights["norm1.bias"])
    mixed = normed @ weights["self_attn.in_proj_weight"].T + weights["self_attn.in_proj_bias"]
    query, key, value = mixed[:, :size], mixed[:, size : 2 * size], mixed[:, 2 * size :]
    heard = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / math.sqrt(width)
        shares = torch.exp(scores) / torch.exp(scores).sum(dim=1, keepdim=True)
        heard.append(shares @ value[:, part])
    attended = torch.cat(heard, dim=1) @ weights["self_attn.out_proj.weight"].T
    hidden = hidden + attended + weights["self_attn.out_proj.bias"]
    normed = layer_norm(hidden, weights["norm2.weight"], weights["norm2.bias"])
    inner = (normed @ weights["linear1.weight"].T + weights["linear1.bias"]).clamp(min=0)
    return hidden + inner @ weights["linear2.weight"].T + weights["linear2.bias"]


@pytest.mark.parametrize("residual", [False, True])
def test_output_equals_a_transcription(residual):
    network = untrained(mels=8, heads=2, blocks=2, feedforward=16, residual=residual).double()
    weights = {key: torch.randn_like(value) / 4 for key, value in network.state_dict().items()}
    network.load_state_dict(weights)
    x = draw(1, 1, 8, 5).double()
    tokens = x[0, 0].T  # (F, M)
    hidden = tokens @ weights["embed.weight"].T + weights["embed.bias"]
    hidden = hidden * math.sqrt(8)  # Vaswani et al. 2017, section 3.4
    for frame in range(5):
        for i in range(4):
            angle = frame / 10_000 ** (2 * i / 8)
            hidden[frame, 2 * i] += math.sin(angle)
            hidden[frame, 2 * i + 1] += math.cos(angle)
    for number in range(2):
        prefix = f"encoder.layers.{number}."
        block = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        hidden = block_by_hand(block, hidden, heads=2)
    hidden = layer_norm(hidden, weights["encoder.norm.weight"], weights["encoder.norm.bias"])
    expected = (hidden @ weights["out.weight"].T + weights["out.bias"]).T
    if residual:
        expected = expected + x[0, 0]
    # Positions are a float32 table.
    torch.testing.assert_close(network(x)[0, 0], expected, rtol=1e-6, atol=1e-6)


def test_an_untrained_residual_network_changes_nothing():
    x = draw(2, 1, 64, 20)
    assert torch.equal(untrained(residual=True)(x), x)
    assert not torch.allclose(untrained(residual=False)(x), x, atol=0.1)


def test_blocks_do_not_start_equal():
    layers = untrained().encoder.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)


def test_utterances_do_not_influence_each_other():
    network = untrained()
    x = draw(3, 1, 64, 20)
    one_by_one = torch.cat([network(row.unsqueeze(0)) for row in x])
    torch.testing.assert_close(network(x), one_by_one, rtol=1e-4, atol=1e-5)


def test_the_order_of_frames_matters():
    network = untrained()
    x = draw(1, 1, 64, 20)
    assert not torch.allclose(network(x.flip(3)).flip(3), network(x), atol=1e-3)


def test_positions_of_an_odd_size():
    assert positions(4, 5).shape == (4, 5)
    assert positions(1, 5).tolist() == [[0.0, 1.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("shape", [(64, 20), (1, 64, 20), (1, 2, 64, 20), (1, 1, 40, 20)])
def test_inputs_of_another_shape_are_refused(shape):
    sentence = f"x has shape {shape}, expected (B, 1, 64, F)."
    with pytest.raises(ShapeError, match=f"^{re.escape(sentence)}$"):
        untrained(blocks=1)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mels": 0}, "mels is 0, expected a whole number in [1, 4096]."),
        ({"blocks": 10**9}, "blocks is 1000000000, expected a whole number in [1, 256]."),
        ({"heads": 7}, "heads is 7, expected a divisor of mels (64)."),
        ({"heads": "8"}, "heads is '8', expected a whole number in [1, 4096]."),
        ({"feedforward": -5}, "feedforward is -5, expected a whole number in [1, 65536]."),
        ({"residual": "no"}, "residual is 'no', expected true or false."),
    ],
)
def test_settings_outside_their_rule_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        FrameTransformerSettings(**settings)


# Widened heads (training mode) round otherwise: that the function is the same is shown in double.
@pytest.mark.parametrize(
    ("training", "dtype", "rtol", "atol"),
    [
        (False, torch.float32, 1e-5, 1e-6),
        (False, torch.float64, 1e-10, 1e-12),
        (True, torch.float64, 1e-10, 1e-12),
        (True, torch.float32, 1e-4, 1e-5),
    ],
)
def test_a_block_is_torchs_own_layer(training, dtype, rtol, atol):
    block = Block(64, 8, 128, dropout=0.0, batch_first=True, norm_first=True).to(dtype)
    plain = torch.nn.TransformerEncoderLayer(
        64, 8, 128, dropout=0.0, batch_first=True, norm_first=True
    ).to(dtype)
    plain.load_state_dict(block.state_dict())
    tokens = draw(3, 50, 64, seed=5).to(dtype)
    found = []
    for layer in (block, plain):
        leaf = tokens.clone().requires_grad_(True)
        out = layer.train(training)(leaf)
        (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
        found.append((out, gradient))
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=rtol, atol=atol)
