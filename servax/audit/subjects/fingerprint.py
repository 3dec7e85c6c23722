"""SHA-256 of what a model is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

BLOCK = 1 << 20


def of_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of files one after another; of one file, what ``sha256sum`` says."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def of_model(model: nn.Module, *more: bytes) -> str:
    """Return the SHA-256 of the parameters and buffers of a model, and of `more`.

    Buffers that are not saved count too: they change what is predicted.
    """
    digest = hashlib.sha256()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for part in more:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
