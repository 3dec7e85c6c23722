"""The least that a workload can cost on this machine: its operations and bytes over measured rates.

The rates are measured in the run that needs them, in the type that the contender computes in: a
square matrix product, and a 3x3 convolution with 256 channels, which is a matrix product too and
reaches more than twice as much in float32 on processors that MKL was not written for. The higher
counts, for a floor must be one. Memory is a copy of more than any cache holds.

The operations are those of convolutions and matrix products (`torch.utils.flop_counter`), the bytes
those of the tensors that they read and write, as if everything between them were free. Another way
to the same result can need fewer (a convolution by Winograd's algorithm).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SIDE = 2048
"""Rows and columns of the matrices whose product is timed."""
CHANNELS = 256
"""In and out of the convolution that is timed."""
COPIED_BYTES = 256 * 2**20
"""How much memory is copied to measure its rate."""
REPEATS = 5
"""How often each rate is measured; the highest counts, for a floor must be one."""


@dataclass(frozen=True)
class Rates:
    """What this machine reaches with the threads that torch was given."""

    product_gflops: float
    """Billions of operations a second of a matrix product; an addition is one, a product too."""
    convolution_gflops: float
    """The same of a 3x3 convolution."""
    gigabytes: float
    """Billions of bytes a second that a copy reads and writes."""
    dtype: str = "float32"
    """In which type was computed."""
    threads: int = 1
    """Threads of torch meanwhile."""

    @property
    def gflops(self) -> float:
        """The higher of the two."""
        return max(self.product_gflops, self.convolution_gflops)

    def told(self) -> dict[str, Any]:
        """Return the rates for a result file."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What has to be computed, and moved between memory and processor."""

    operations: float
    """Additions and multiplications."""
    bytes: float
    """Read and written."""

    def floor(self, rates: Rates) -> float:
        """Return the least seconds: the longer of computing and moving."""
        return max(self.operations / rates.gflops, self.bytes / rates.gigabytes) / 1e9

    def times(self, count: float) -> Work:
        """Return `count` times this work."""
        return Work(count * self.operations, count * self.bytes)

    def plus(self, other: Work) -> Work:
        """Return both works, one after the other."""
        return Work(self.operations + other.operations, self.bytes + other.bytes)


def measure_rates(dtype: torch.dtype = torch.float32) -> Rates:
    """Return the rates of this machine at this moment."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    image, kernel = (
        torch.randn(4, CHANNELS, 16, 94).to(dtype),
        torch.randn(CHANNELS, CHANNELS, 3, 3),
    )
    image = image.to(memory_format=torch.channels_last)
    kernel = kernel.to(dtype).to(memory_format=torch.channels_last)
    source = torch.ones(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product = _fastest(lambda: torch.mm(a, b))
        convolution = _fastest(lambda: conv2d(image, kernel, padding=1))
        copy = _fastest(lambda: target.copy_(source))
    pixels = image.numel() // CHANNELS
    return Rates(
        product_gflops=2 * SIDE**3 / product / 1e9,
        convolution_gflops=2 * 9 * CHANNELS**2 * pixels / convolution / 1e9,
        gigabytes=2 * COPIED_BYTES / copy / 1e9,
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def _fastest(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what matrix operations compute, read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.operations += flop_registry[func.overloadpacket](*args, out_val=out)
            both = (args, out if isinstance(out, tuple) else (out,))
            tensors = [t for part in both for t in part if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def work_of(run: Callable[[], object]) -> Work:
    """Return the operations and bytes of the matrix operations that `run` does, by running it."""
    with _Counted() as counted:
        run()
    return Work(operations=float(counted.operations), bytes=float(counted.bytes))
