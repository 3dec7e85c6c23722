"""Where random numbers come from: each purpose has its own stream, derived from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.errors import SettingError
from servax.kinds import NUMBER


def derive(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2**63) for one purpose, e.g. ``derive(7, "epoch", 3)``.

    Hashing keeps streams apart: neighbouring seeds and epochs do not share numbers.
    """
    NUMBER.check("seed", seed)
    text = "\0".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


class PartOfDraws(torch.Generator):
    """Stands for a generator where several processes share a batch: `drawn` knows what to do."""

    def __new__(cls, whole: torch.Generator, rows: slice, count: int) -> PartOfDraws:
        """Make a generator; one of torch takes no such arguments."""
        return super().__new__(cls)

    def __init__(self, whole: torch.Generator, rows: slice, count: int) -> None:
        self.whole, self.rows, self.count = whole, rows, count


def drawn(
    sample: Callable[..., Tensor],
    shape: torch.Size,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``sample(shape, generator=generator, dtype=dtype)``, e.g. of torch.rand.

    With the generator of one of several processes the numbers are drawn for the whole batch and cut
    to the rows of `shape` (B, ...), so that every utterance gets those it would get in one process.
    """
    if not isinstance(generator, PartOfDraws):
        return sample(shape, generator=generator, dtype=dtype)
    whole = sample((generator.count, *shape[1:]), generator=generator.whole, dtype=dtype)
    return whole[generator.rows]


@contextmanager
def global_seed(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators inside the block (weights, dropout); restore them after."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, *purpose))
        yield


def epoch_order(count: int, batch_size: int, *, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return the shuffled batches of one epoch, a function of seed and epoch alone.

    Resuming needs no saved sampler. A last batch of one utterance is left out, since batch norm
    cannot be trained on it; another epoch draws it elsewhere.

    Returns:
        Positions in [0, count), one array per batch.
    """
    if batch_size < 2:
        raise SettingError("batch size", batch_size, "a whole number of at least 2 for training")
    order = torch.randperm(count, generator=generator(seed, "order", epoch)).numpy()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    return [batch for batch in batches if len(batch) > 1 or count == 1]
