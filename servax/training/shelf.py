"""Batches of spectrograms that every epoch reads again, kept in a file instead of in memory.

What validation is measured on is made once and as large as the validation part; in memory it would
grow with the corpus. The file has no name and is gone with its process.
"""

from __future__ import annotations

import tempfile
import weakref

import numpy as np
import torch
from torch import Tensor

from servax.errors import ServaxError, unwritable


class Shelf:
    """Keeps tensors of any shapes in the order in which they were put."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="servax-")  # noqa: SIM115  closed below
        weakref.finalize(self, self._file.close)
        self._places: list[tuple[int, torch.Size, np.dtype]] = []

    def __len__(self) -> int:
        return len(self._places)

    def put(self, x: Tensor) -> None:
        """Keep a copy of a tensor; bfloat16, which NumPy has not, comes back as float32.

        Raises:
            ServaxError: The disk is full.
        """
        values = (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()
        try:
            offset = self._file.seek(0, 2)
            self._file.write(values.tobytes())
            self._file.flush()
        except OSError as error:
            raise ServaxError(f"{tempfile.gettempdir()}: {unwritable(error)}.") from None
        self._places.append((offset, x.shape, values.dtype))

    def get(self, number: int, device: torch.device | None = None) -> Tensor:
        """Return the tensor that was put as `number`, from 0, on `device` (default: CPU)."""
        offset, shape, dtype = self._places[number]
        self._file.seek(offset)
        read = bytearray(self._file.read(dtype.itemsize * shape.numel()))
        return torch.from_numpy(np.frombuffer(read, dtype=dtype)).reshape(shape).to(device)
