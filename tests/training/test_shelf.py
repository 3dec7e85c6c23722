"""Tensors on a shelf come back as they were put, from a file that nobody else sees."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from servax.errors import ServaxError
from servax.training import Shelf


def test_tensors_come_back_bit_by_bit_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shelf = Shelf()
    put = [
        torch.randn(3, 1, 8, 5),
        torch.randn(1, 1, 8, 7).transpose(2, 3),
        torch.rand(2, 2).double(),
    ]
    for x in put:
        shelf.put(x)
    assert len(shelf) == 3
    for number in (2, 0, 1, 0):
        assert torch.equal(shelf.get(number), put[number])
    shelf.get(0).zero_()  # a copy
    assert torch.equal(shelf.get(0), put[0])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told() -> None:
    shelf = Shelf()
    shelf._file.close()
    with Path("/dev/full").open("r+b", buffering=0) as full:
        shelf._file = full
        with pytest.raises(ServaxError, match="No space left on device"):
            shelf.put(torch.zeros(4))
