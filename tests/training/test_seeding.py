from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from servax.errors import SettingError
from servax.training import derive, epoch_order, generator, global_seed


def test_derive_is_the_first_63_bits_of_a_hash() -> None:
    digest = hashlib.sha256(b"7\x00epoch\x003").hexdigest()
    assert derive(7, "epoch", 3) == int(digest[:16], 16) // 2


def test_derive_keeps_purposes_apart() -> None:
    purposes = [(), ("a",), ("a", 1), ("a", 11), ("a1", 1), ("a", "1", "1"), ("b",)]
    seeds = [derive(seed, *purpose) for seed in range(50) for purpose in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derive_refuses_a_negative_seed() -> None:
    with pytest.raises(
        SettingError, match=r"^seed is -1, expected a whole number of at least 0\.$"
    ):
        derive(-1, "weights")


def test_generators_of_one_purpose_agree() -> None:
    first, second = generator(3, "ssa", 0), generator(3, "ssa", 0)
    other = generator(3, "ssa", 1)
    numbers = torch.rand(8, generator=first)
    assert torch.equal(numbers, torch.rand(8, generator=second))
    assert not torch.equal(numbers, torch.rand(8, generator=other))


def test_global_seed_repeats_inside_and_restores_outside() -> None:
    torch.manual_seed(5)
    untouched = torch.rand(4)
    torch.manual_seed(5)
    with global_seed(1, "weights"):
        first = torch.rand(3)
    with global_seed(1, "weights"):
        assert torch.equal(first, torch.rand(3))
    with pytest.raises(ZeroDivisionError), global_seed(2):
        raise ZeroDivisionError
    assert torch.equal(torch.rand(4), untouched)


def test_other_random_sources_are_left_alone() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  the old global state is what must not change
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with global_seed(9, "weights"):
        epoch_order(20, 4, seed=0, epoch=0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (16, 4, [4, 4, 4, 4]),
        (14, 4, [4, 4, 4, 2]),
        (13, 4, [4, 4, 4]),  # a batch of one is left out
        (3, 16, [3]),
        (1, 16, [1]),  # or nothing would be trained on
    ],
)
def test_epoch_order_sizes(count: int, batch_size: int, sizes: list[int]) -> None:
    batches = epoch_order(count, batch_size, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == sizes


def test_epoch_order_shows_every_utterance_once() -> None:
    for epoch in range(5):
        shown = np.concatenate(epoch_order(30, 4, seed=2, epoch=epoch))
        assert sorted(shown.tolist()) == list(range(30))


def test_epoch_order_leaves_out_another_utterance_each_time() -> None:
    left_out = set()
    for epoch in range(40):
        shown = np.concatenate(epoch_order(5, 2, seed=0, epoch=epoch)).tolist()
        assert len(set(shown)) == 4
        left_out |= set(range(5)) - set(shown)
    assert left_out == set(range(5))


def test_epoch_order_is_a_function_of_seed_and_epoch() -> None:
    def flat(seed: int, epoch: int) -> list[int]:
        torch.rand(epoch + 1)  # the global generator has no say
        return np.concatenate(epoch_order(64, 8, seed=seed, epoch=epoch)).tolist()

    assert flat(1, 2) == flat(1, 2)
    assert flat(1, 2) != flat(1, 3)
    assert flat(1, 2) != flat(2, 2)


@pytest.mark.parametrize("batch_size", [1, 0, -4])
def test_epoch_order_refuses_batches_of_one(batch_size: int) -> None:
    sentence = (
        rf"^batch size is {batch_size}, expected a whole number of at least 2 for training\.$"
    )
    with pytest.raises(SettingError, match=sentence):
        epoch_order(10, batch_size, seed=0, epoch=0)
