"""The least that a workload can cost on this machine: its operations and bytes over measured rates.

The rates are measured in the run that needs them: a square matrix product in the type that the
contender computes in, by the quicker of torch's two libraries (MKL, which is slow on processors of
other makers, and oneDNN, as a 1x1 convolution), and a copy of more memory than any cache holds. The
operations are those of convolutions and matrix products (`torch.utils.flop_counter`), the bytes
those of the tensors that they read and write, as if everything between them were free. Another way
to the same result can need fewer (a convolution by Winograd's algorithm), and a convolution can
reach a higher rate than the product that was timed, so a share above 1 is possible.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SIDE = 2048
"""Rows and columns of the matrices whose product is timed."""
COPIED_BYTES = 256 * 2**20
"""How much memory is copied to measure its rate."""
REPEATS = 5
"""How often each rate is measured; the highest counts, for a floor must be one."""


@dataclass(frozen=True)
class Rates:
    """What this machine reaches with the threads that torch was given."""

    gflops: float
    """Billions of operations a second of a matrix product; an addition is one, a product too."""
    gigabytes: float
    """Billions of bytes a second that a copy reads and writes."""
    dtype: str = "float32"
    """In which type the product was computed."""
    threads: int = 1
    """Threads of torch meanwhile."""

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
    source = torch.ones(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    # The same product as a 1x1 convolution of SIDE pixels.
    image = a.reshape(1, SIDE, 32, SIDE // 32).to(memory_format=torch.channels_last)
    kernel = b.reshape(SIDE, SIDE, 1, 1)
    with torch.inference_mode():
        product = min(
            _fastest(lambda: torch.mm(a, b)),
            _fastest(lambda: torch.nn.functional.conv2d(image, kernel)),
        )
        copy = _fastest(lambda: target.copy_(source))
    return Rates(
        gflops=2 * SIDE**3 / product / 1e9,
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
