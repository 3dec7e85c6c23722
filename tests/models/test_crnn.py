from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch import nn

from servax.models import CRNN
from servax.models.recognisers import DROPOUT


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("width", "classes", "expected"), [(64, 4, 1_752_517), (16, 4, 110_965), (16, 7, 111_352)]
)
def test_parameter_count_by_hand(width, classes, expected):
    channels = [1, width, 2 * width, 4 * width, 4 * width]
    convolutions = sum(9 * a * b + 2 * b for a, b in pairwise(channels))
    size = 4 * width
    gru = 2 * 3 * (size * size + size * size + 2 * size)  # directions, gates
    pooled = 2 * size
    found = count(CRNN(classes=classes, width=width))
    assert found == convolutions + gru + pooled + 1 + pooled * classes + classes == expected


def recurrent(x, weights, direction):
    """Return the states (F, H) of a GRU over frames x (F, D) (Cho et al. 2014, as torch has it)."""
    w_in, w_state, b_in, b_state = (
        weights[f"gru.{part}_l0{direction}"]
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    state, states = np.zeros(w_state.shape[1]), []
    for frame in x:
        reset, update, new = np.split(w_in @ frame + b_in, 3)
        reset_s, update_s, new_s = np.split(w_state @ state + b_state, 3)
        reset, update = expit(reset + reset_s), expit(update + update_s)
        state = (1 - update) * np.tanh(new + reset * new_s) + update * state
        states.append(state)
    return np.stack(states)


def by_hand(network, x):
    """Return the logits (B, C): the convolutions by torch, all that follows in NumPy."""
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    logits = []
    for planes in network.features(x).detach().numpy():
        frames = planes.max(axis=1).T  # (F / 4, 4 * width)
        there = recurrent(frames, weights, "")
        back = recurrent(frames[::-1], weights, "_reverse")[::-1]
        hidden = np.concatenate([there, back], axis=1)
        scores = hidden @ weights["attention.weight"][0] + weights["attention.bias"]
        pooled = softmax(scores) @ hidden
        logits.append(weights["head.weight"] @ pooled + weights["head.bias"])
    return np.stack(logits)


@pytest.mark.parametrize("size", [(64, 101), (17, 40)])
def test_logits_equal_a_transcription(size):
    draws = torch.Generator().manual_seed(0)
    network = CRNN(classes=3, width=2).double().eval()
    for parameter in network.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    x = torch.rand((2, 1, *size), generator=draws, dtype=torch.float64)
    found = network(x).detach().numpy()
    np.testing.assert_allclose(found, by_hand(network, x), rtol=1e-9, atol=1e-9)


def test_frames_are_a_quarter_and_mel_bins_a_sixteenth():
    with torch.device("meta"):
        features = CRNN(width=16).features
        assert features(torch.empty(1, 1, 64, 373)).shape == (1, 64, 4, 93)


def test_a_later_frame_changes_what_is_said_of_the_earlier():
    """The GRU runs both ways."""
    network = CRNN(width=2).eval()
    heard = []
    network.gru.register_forward_hook(lambda m, i, output: heard.append(output[0]))
    x = torch.rand((1, 1, 32, 64), generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[..., -4:] = 0
    network(x)
    network(changed)
    assert not torch.equal(heard[0][:, 0], heard[1][:, 0])


def test_dropout_draws_in_training_only():
    network = CRNN(width=2)
    rates = {m.p for m in network.modules() if isinstance(m, nn.Dropout)}
    assert rates == {DROPOUT} == {0.3}
    x = torch.rand((4, 1, 32, 64), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_the_global_random_state_is_not_touched_in_evaluation_mode():
    network = CRNN(width=2).eval()
    before = torch.get_rng_state()
    network(torch.zeros(1, 1, 32, 32))
    assert torch.equal(torch.get_rng_state(), before)
