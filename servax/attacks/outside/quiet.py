"""A block in which a library may print, warn, log and draw as it likes, and nothing stays of it."""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import torch
from torch import nn


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what is printed, warned and logged inside the block to itself.

    The root logger holds a handler meanwhile, since logging.info would install one for good.
    """
    root = logging.getLogger()
    handler = logging.NullHandler()
    level = root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        nowhere = io.StringIO()
        with redirect_stdout(nowhere), redirect_stderr(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python in the block; restore them after it."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    old_python, old_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(old_numpy)  # noqa: NPY002
            random.setstate(old_python)


@contextmanager
def without_gradients_of(model: nn.Module) -> Iterator[None]:
    """Let no gradient reach the model's own weights inside the block.

    The libraries call backward(), which would add to the gradients that a training loop holds.
    """
    wanted = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in wanted:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)
