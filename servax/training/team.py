"""The processes of one training: who this one is, which utterances are its own, what they agree on.

Every process holds the same weights and walks through the same batches. Of each batch it takes its
own utterances; the gradients are then combined so that the step is that of the whole batch in one
process, up to the order of additions:

- a mean over the process's own utterances is multiplied by `Team.share` before its gradient is
  taken, so that batches need not be divisible and a share may be empty;
- the networks are wrapped by `accelerate` in torch's DistributedDataParallel, which averages
  gradients while they are computed (`Team.parallel`); batch norms see the whole batch;
- what is random is drawn for the whole batch and cut (`servax.training.seeding.drawn`).

Of accelerate we use process state, devices, process groups and the wrapping; batches are cut by our
own seeded order and precision is that of `Compute`, since both must be those of one process. Alone,
every method here hands back what it is given, and accelerate is not loaded.

In float64 the weights are those of one process to 1e-6. In float32 the first step agrees to some
1e-5 (our batch norm rounds less than torch's), and Adam lets that grow, as it does any rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from servax.errors import SettingError
from servax.training.device import Compute
from servax.training.seeding import PartOfDraws

Value = TypeVar("Value")
Total = Callable[[Tensor], Tensor]
"""From one process's values to their sum over all processes."""
DIMENSIONS = (0, 2, 3)
"""Over which a batch norm adds up."""


@dataclass(frozen=True)
class Team:
    """The processes that train one model together, seen from one of them."""

    rank: int = 0
    """Which process this is, from 0."""
    size: int = 1
    """How many there are, on all machines."""
    local_rank: int = 0
    """Which process of its machine this is: the number of its GPU."""

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes checkpoints, logs and models."""
        return self.rank == 0

    def place(self, compute: Compute) -> Compute:
        """Return `compute` on this process's own GPU, where GPUs are used."""
        if self.alone or compute.resolve().type != "cuda":
            return compute
        return replace(compute, device=f"cuda:{self.local_rank}")

    def rows(self, count: int) -> slice:
        """Return which of `count` utterances are this process's; none when there are too few."""
        start, stop = (-(-count * rank // self.size) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def cut(self, values: Tensor) -> Tensor:
        """Return this process's rows of the values (B, ...) of a whole batch."""
        return values if self.alone else values[self.rows(len(values))]

    def share(self, own: float, whole: float) -> float:
        """Return what a mean over own utterances is multiplied by before its gradient is taken.

        Gradients are averaged over processes; with this factor that is the gradient of the mean
        over the whole batch.

        Args:
            own: Number (or sum of weights) of the process's own utterances.
            whole: The same of the whole batch.
        """
        return self.size * own / whole

    def draws(self, generator: torch.Generator, count: int) -> torch.Generator:
        """Return a generator of this process's rows of what a whole batch of `count` draws."""
        return generator if self.alone else PartOfDraws(generator, self.rows(count), count)

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the module to call in place of `network` so that backward averages gradients.

        Weights are shared with `network`, whose batch norms see the whole batch from now on.
        """
        if self.alone:
            return network
        from accelerate import Accelerator

        on_cpu = next(network.parameters()).device.type == "cpu"
        accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")
        wrapped: nn.Module = accelerator.prepare_model(with_global_batch_norm(network, self.total))
        return wrapped

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes of `values`, any shape, without a gradient."""
        if self.alone:
            return values
        summed = values.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(summed)
        return summed

    def length(self, values: Tensor) -> Tensor:
        """Return the Euclidean norm of `values` (B, ...) over all processes, a scalar."""
        if self.alone:
            length: Tensor = values.norm()
            return length
        return self.total(values.square().sum()).sqrt()

    def means(self, means: Mapping[str, Tensor], share: float) -> dict[str, float]:
        """Return means over the whole batch from those over own utterances, without gradients.

        Args:
            means: Scalars; without own utterances they are NaN and not looked at.
            share: The factor of `Team.share` for them.
        """
        if not self.alone:
            values = torch.stack([value.detach().double() for value in means.values()])
            own = values * (share / self.size) if share else torch.zeros_like(values)
            means = dict(zip(means, self.total(own), strict=True))
        return {name: float(value.detach()) for name, value in means.items()}

    def from_main(self, value: Value) -> Value:
        """Return what the main process gives here; what the others give is not looked at."""
        if self.alone:
            return value
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [value if self.main else None]
        broadcast_object_list(box, from_process=0)
        return box[0]  # type: ignore[no-any-return]


_team = Team()


def current() -> Team:
    """Return the team of this process: itself alone, unless it was started with others."""
    return _team


def become(team: Team) -> None:
    """Make `team` the one of this process."""
    global _team
    _team = team


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose training statistics are those of the utterances of all processes.

    torch's SyncBatchNorm does the same on CUDA and refuses CPU tensors; this one works on either,
    so that what the tests compare with one process is what a GPU runs.

    Weights, running statistics and their names are those of `norm`, with which it shares them.
    """

    def __init__(self, norm: nn.BatchNorm2d, total: Total) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.training = norm.training
        self._total = total

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised activations (B, C, H, W), B the process's own utterances."""
        if not self.training:
            return super().forward(x)
        own = x.to(self.weight.dtype)
        size = own.new_tensor([float(x.shape[0] * x.shape[2] * x.shape[3])])
        sums = _summed(torch.cat([own.sum(DIMENSIONS), size]), self._total)  # (C + 1,)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        from_mean = own - _channels(mean)
        squares = _summed(from_mean.square().sum(DIMENSIONS), self._total)
        self._follow(mean.detach(), squares.detach() / (count - 1))
        scale = (squares / count + self.eps).rsqrt() * self.weight
        return (from_mean * _channels(scale) + _channels(self.bias)).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics (C,) towards those of a batch."""
        # Not none, since `with_global_batch_norm` asks for norms that track them.
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        pace = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - pace).add_(pace * mean)
        self.running_var.mul_(1 - pace).add_(pace * variance)


class _Summed(torch.autograd.Function):
    """The sum over all processes, through which gradients of all of them come back."""

    @staticmethod
    def forward(context: Any, values: Tensor, total: Total) -> Tensor:
        context.total = total
        return total(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return context.total(gradient), None


def _summed(values: Tensor, total: Total) -> Tensor:
    summed: Tensor = _Summed.apply(values, total)  # type: ignore[no-untyped-call]
    return summed


def with_global_batch_norm(network: nn.Module, total: Total) -> nn.Module:
    """Return `network` after its batch norms were replaced, in place, by global ones.

    Raises:
        SettingError: It has batch norms of a kind that would see one process's utterances only.
    """
    for name, part in network.named_children():
        if isinstance(part, _BatchNorm) and not isinstance(part, GlobalBatchNorm2d):
            usual = part.affine and part.track_running_stats
            if not (isinstance(part, nn.BatchNorm2d) and usual):
                raise SettingError(
                    "batch norm",
                    repr(part),
                    "a BatchNorm2d with weights and running statistics, where several processes "
                    "train",
                )
            network.register_module(name, GlobalBatchNorm2d(part, total))
        else:
            with_global_batch_norm(part, total)
    return network


def _channels(values: Tensor) -> Tensor:
    """Return values (C,) shaped to multiply activations (B, C, H, W)."""
    return values[None, :, None, None]
