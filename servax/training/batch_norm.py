"""Batch norm over the utterances of all processes.

torch's SyncBatchNorm does the same on CUDA and refuses CPU tensors; this one works on either, so
that what the tests compare with one process is what a GPU runs. Gradients: Ioffe & Szegedy 2015,
section 3, with sums over the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from servax.errors import SettingError

Total = Callable[[Tensor], Tensor]
"""From one process's values to their sum over all processes."""
DIMENSIONS = (0, 2, 3)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose training statistics are those of the utterances of all processes.

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
        with torch.no_grad():
            own = x.to(self.weight.dtype)
            size = own.new_tensor([float(x.shape[0] * x.shape[2] * x.shape[3])])
            sums = self._total(torch.cat([own.sum(DIMENSIONS), size]))  # (C + 1,)
            count = sums[-1]
            mean = sums[:-1] / count
            squares = self._total((own - _channels(mean)).square().sum(DIMENSIONS))
            self._follow(mean, squares / (count - 1))
        normalised: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, mean, squares / count + self.eps, count, self._total
        )
        return normalised

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


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance) * weight + bias, mean and variance being functions of all x."""

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        total: Total,
    ) -> Tensor:
        scale = variance.rsqrt()
        context.save_for_backward(x, weight, mean, scale, count)
        context.total = total
        normalised = (x.to(mean.dtype) - _channels(mean)) * _channels(scale * weight)
        return (normalised + _channels(bias)).to(x.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        x, weight, mean, scale, count = context.saved_tensors
        slope = gradient.to(mean.dtype)
        unit = (x.to(mean.dtype) - _channels(mean)) * _channels(scale)
        own = torch.stack([(slope * unit).sum(DIMENSIONS), slope.sum(DIMENSIONS)])  # (2, C)
        along, level = context.total(own) / count
        through = slope - _channels(level) - unit * _channels(along)
        # Those of weight and bias are the process's own: they are averaged like all others.
        moved = (through * _channels(scale * weight)).to(x.dtype)
        return moved, own[0], own[1], None, None, None, None


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
