"""What is exported: a purifier, with all around it that it needs.

The graphs are the front-end, the scale and the purifier as they are, with batch norms folded; the
Fourier transform alone is replaced. Each graph says what it `takes` and `gives`, which sizes of its
input are `free` (name and least), and on which `sizes` it is compared with torch, the first for
tracing.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import FrontEnd, LogMel, LogMelSettings, Resynthesis
from servax.models import frozen
from servax.purifier.purifier import Purifier
from servax.recognition import Recogniser


class SoundGraph(nn.Module):
    """Maps a clip (1, T) at the front-end's rate to the purified one, at any level.

    Args:
        purifier: What is exported; its weights are copied.
    """

    role, takes, gives = "purifier", "waveform", ("purified",)

    def __init__(self, purifier: Purifier) -> None:
        super().__init__()
        self.purifier = graph_purifier(purifier)
        logmel = GraphLogMel(purifier.front_end.logmel)
        self.front_end = Resynthesis(logmel)
        self.front_end.weights = self.front_end.weights[:, logmel.order]
        settings = purifier.front_end.logmel
        half, longest = settings.window_samples // 2, purifier.front_end.frames - 1
        self.free = {1: ("samples", max(half, settings.hop_samples) + 1)}
        # A clip is alone, and as long as in training at most.
        lengths = (longest * settings.hop_samples // 2 + 123, 4 * half)
        self.sizes = [(1, each) for each in (*lengths, longest * settings.hop_samples)]

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the purified clip (1, T)."""
        return self.purifier.change(waveform, self.front_end)


class LogMelGraph(nn.Module):
    """Maps log-Mel (B, 1, M, F) on [0, 1] to purified log-Mel of the same shape.

    Args:
        purifier: What is exported; its weights are copied.
    """

    role, takes, gives = "purifier of log-Mels", "logmel", ("purified",)

    def __init__(self, purifier: Purifier) -> None:
        super().__init__()
        self.purifier = graph_purifier(purifier)
        self.free = {0: ("batch", 1), 3: ("frames", 1)}
        mels = purifier.front_end.logmel.mels
        self.sizes = [(2, 1, mels, 96), (1, 1, mels, 373), (3, 1, mels, 50)]

    def forward(self, logmel: Tensor) -> Tensor:
        """Return purified log-Mel (B, 1, M, F)."""
        purified: Tensor = self.purifier(logmel)
        return purified


class DefendedGraph(nn.Module):
    """Maps waveforms (B, T) to the logits (B, C) behind the purifier, the bare logits and a score.

    Args:
        purifier: Stands before the recogniser.
        recogniser: Gives front-end, scale and logits.

    Raises:
        SettingError: The purifier was trained on another front-end or scale.
    """

    role, takes = "defended recogniser", "waveform"
    gives = ("logits", "undefended_logits", "residual")

    def __init__(self, purifier: Purifier, recogniser: Recogniser) -> None:
        super().__init__()
        if not purifier.fits(recogniser.scale, recogniser.front_end):
            raise SettingError(
                "recogniser",
                "of another log-Mel, level or scale",
                "one of the front-end and the scale that the purifier was trained on",
            )
        self.front_end = FrontEnd(recogniser.front_end)
        self.front_end.logmel = GraphLogMel(recogniser.front_end.logmel)
        self.scale = recogniser.scale
        self.purifier = graph_purifier(purifier)
        self.recogniser = graph_network(recogniser.network)
        self.free = {0: ("batch", 1), 1: ("samples", 1)}
        rate, half = recogniser.sample_rate, recogniser.front_end.logmel.window_samples // 2
        self.sizes = [(2, rate), (1, half + 1), (3, 7 * rate + 123), (1, 8 * half)]

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, C), those without the purifier, and the residual score (B,).

        The score is the mean change by the purifier (`servax.defences.Detector`).
        """
        x = self.scale(self.front_end(waveform))
        purified = self.purifier(x)
        residual = (x - purified).abs().mean(dim=(1, 2, 3))
        return self.recogniser(purified), self.recogniser(x), residual


class GraphLogMel(LogMel):
    """Computes the Fourier transform as a product with cosines and sines: ONNX' own is slow.

    Half a window later a wave of an even bin is the same, one of an odd bin the opposite. So sums
    of both halves of a frame meet the even bins, and their differences the odd ones: half the work.
    The bins stand in that `order`, which saves moving them.

    Args:
        settings: Of the log-Mel whose values it gives, to rounding. The halves of an odd window
            differ: all bins are `even` then, and meet whole frames.
    """

    even: Tensor
    even_back: Tensor
    odd: Tensor
    odd_back: Tensor

    def __init__(self, settings: LogMelSettings) -> None:
        super().__init__(settings)
        size, bins = settings.window_samples, settings.window_samples // 2 + 1
        self.halves = 2 - size % 2
        groups = [torch.arange(first, bins, self.halves) for first in range(self.halves)]
        self.order = torch.cat(groups)
        self._bins = [slice(None)]  # one product with all filters: fewer nodes
        self.register_buffer("band_0", self.filters[self.order], persistent=False)
        # All bins but the first, and the last of an even window, stand for their mirror image too.
        shares = torch.full((bins, 1, 1), 2.0 / size)
        shares[0] = 1.0 / size
        if size % 2 == 0:
            shares[-1] = 1.0 / size
        for name, group in zip(("even", "odd"), groups, strict=False):
            # Whole turns are taken away before the angle is rounded.
            turns = (group[:, None] * torch.arange(size // self.halves)) % size
            angle = 2.0 * math.pi * turns.double() / size
            waves = torch.stack([angle.cos(), -angle.sin()], dim=1)  # (bins, 2, window / 2)
            forth, back = waves.flatten(0, 1).T, (shares[group] * waves).flatten(0, 1)
            self.register_buffer(name, forth.float().contiguous(), persistent=False)
            self.register_buffer(f"{name}_back", back.float().contiguous(), persistent=False)

    def transform(self, frames: Tensor) -> Tensor:
        """Return the complex spectrum (..., bins) of frames (..., window), bins in `order`."""
        if self.halves == 1:
            parts = torch.matmul(frames, self.even)
        else:
            half = self.settings.window_samples // 2
            first, second = frames[..., :half], frames[..., half:]
            even = torch.matmul(first + second, self.even)
            parts = torch.cat([even, torch.matmul(first - second, self.odd)], dim=-1)
        pairs = parts.unflatten(-1, (len(self.order), 2))  # type: ignore[no-untyped-call]
        return torch.view_as_complex(pairs)

    def inverse_transform(self, spectrum: Tensor) -> Tensor:
        """Return the frames (..., window) of a spectrum (..., bins), bins in `order`."""
        parts, even = torch.view_as_real(spectrum).flatten(-2), self.even.shape[1]
        same = torch.matmul(parts[..., :even], self.even_back)
        if self.halves == 1:
            return same
        opposite = torch.matmul(parts[..., even:], self.odd_back)
        return torch.cat([same + opposite, same - opposite], dim=-1)


def graph_purifier(purifier: Purifier) -> Purifier:
    """Return a frozen copy of a purifier that an exporter can read."""
    network = graph_network(purifier.network)
    return Purifier(network, deepcopy(purifier.scale), purifier.front_end).eval()


def graph_network(network: nn.Module) -> nn.Module:
    """Return a frozen copy that an exporter can read; batch norms are folded."""
    return frozen(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]
