"""The front-end as an ONNX graph can hold it: any batch, any length, one path for all lengths.

The same values as `servax.features.FrontEnd` to rounding. Differs in: the Fourier transform is a
convolution with cosines and sines, since ONNX knows no complex numbers; reflection, repetition and
cropping pick samples and frames by number, since a graph has no branches by length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d

from servax.features import FrontEndSettings, LogMel, set_level


class GraphFrontEnd(nn.Module):
    """Turns (B, T) waveforms into (B, 1, M, frames) log-Mel in dB; T at least 1.

    Args:
        settings: Of the front-end whose values it gives.
    """

    kernels: Tensor
    filters: Tensor

    def __init__(self, settings: FrontEndSettings) -> None:
        super().__init__()
        self.settings = settings
        logmel = LogMel(settings.logmel)
        self.register_buffer("kernels", fourier_kernels(logmel.window), persistent=False)
        self.register_buffer("filters", logmel.filters, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return log-Mel (B, 1, M, frames) of (B, T) waveforms."""
        s = self.settings
        if s.level_dbfs is not None:
            waveform = set_level(waveform, s.level_dbfs)
        padded = reflected(waveform, s.logmel.window_samples // 2)
        parts = conv1d(padded.unsqueeze(1), self.kernels, stride=s.logmel.hop_samples)
        cosine, sine = parts.chunk(2, dim=1)  # (B, bins, F) each
        energy = cosine.square() + sine.square()
        if s.logmel.spectrum == "magnitude":
            energy = energy.sqrt()
        mel = torch.matmul(energy.transpose(1, 2), self.filters).transpose(1, 2)  # (B, M, F)
        if s.logmel.logarithm == "db":
            logmel = 10.0 * torch.log10(mel.clamp(min=s.logmel.floor))
        else:
            logmel = torch.log(mel + s.logmel.floor)
        return fitted(logmel.unsqueeze(1), s.frames, repeat=s.fill == "repeat")


def fourier_kernels(window: Tensor) -> Tensor:
    """Return (2 * bins, 1, N) kernels: windowed cosines of all bins, then windowed sines."""
    length = len(window)
    # Whole turns are taken away before the angle is rounded.
    turns = (torch.arange(length // 2 + 1)[:, None] * torch.arange(length)) % length
    angle = 2.0 * math.pi * turns.double() / length
    both = torch.cat([angle.cos(), -angle.sin()]) * window.double()
    return both.float().unsqueeze(1)


def reflected(waveform: Tensor, half: int) -> Tensor:
    """Return (B, T') waveforms with `half` samples reflected at each end.

    What is too short for that is filled up with zeros first, as in `FrontEnd`.
    """
    length = waveform.shape[1]
    last = _larger(length, half + 1) - 1
    place = (torch.arange(last + 1 + 2 * half) - half).abs()
    place = last - (last - place).abs()
    heard: Tensor = (place < length).to(waveform.dtype)
    return waveform.index_select(1, place.clamp(max=length - 1)) * heard


def fitted(logmel: Tensor, frames: int, *, repeat: bool) -> Tensor:
    """Return the middle `frames` of (B, 1, M, F), or as many by repetition or by the floor."""
    have = logmel.shape[3]
    place = torch.arange(frames) + _larger(have - frames, 0) // 2
    # The exporter knows remainders by a tensor, not by a length.
    picked = logmel.index_select(3, place % torch.full((1,), have))
    if repeat:
        return picked
    return torch.where(place < have, picked, logmel.amin(dim=(2, 3), keepdim=True))


def _larger(one: int, other: int) -> int:
    """Return the larger length, also where one is only known when the graph runs."""
    larger: int = torch.sym_max(one, other)  # type: ignore[no-untyped-call]
    return larger
