"""What is exported: a purifier, with all around it that it needs.

The graphs are the front-end, the scale and the purifier as they are, with batch norms folded. Two
parts are replaced, since no exporter knows them: the Fourier transform and a GRU. Each graph says
which sizes of its input are `free` (name and least), and on which `sizes` it is compared with
torch, the first for tracing.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import FrontEnd, LogMel, LogMelSettings, Resynthesis
from servax.models import CRNN, frozen
from servax.purifier.purifier import Purifier
from servax.recognition import Recogniser


class SoundGraph(nn.Module):
    """Maps a clip (1, T) at the front-end's rate to the purified one, at any level.

    Args:
        purifier: What is exported; its weights are copied.
    """

    role, inputs, outputs = "purifier", ("waveform",), ("purified",)

    def __init__(self, purifier: Purifier) -> None:
        super().__init__()
        self.purifier = graph_purifier(purifier)
        self.front_end = Resynthesis(GraphLogMel(purifier.front_end.logmel))
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

    role, inputs, outputs = "purifier of log-Mels", ("logmel",), ("purified",)

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

    role = "defended recogniser"
    inputs = ("waveform",)
    outputs = ("logits", "undefended_logits", "residual")

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

    A cosine is the same on both sides of the middle of a frame, a sine the opposite. So the sums of
    such pairs of samples meet the cosines, and their differences the sines: half the work.

    Args:
        settings: Of the log-Mel whose values it gives, to rounding.
    """

    cosines: Tensor
    cosines_back: Tensor
    sines: Tensor
    sines_back: Tensor

    def __init__(self, settings: LogMelSettings) -> None:
        super().__init__(settings)
        self._bins = [slice(None)]  # one product with all filters: fewer nodes
        self.register_buffer("band_0", self.filters, persistent=False)
        size, bins = settings.window_samples, settings.window_samples // 2 + 1
        self.pairs = (size - 1) // 2
        # Whole turns are taken away before the angle is rounded.
        turns = (torch.arange(bins)[:, None] * torch.arange(size)) % size
        angle = 2.0 * math.pi * turns.double() / size
        alone = [0, *range(self.pairs + 1, size - self.pairs)]  # the middle of an even window
        paired = list(range(1, self.pairs + 1))
        cosines, sines = angle[:, alone + paired].cos(), -angle[:, paired].sin()  # (bins, samples)
        # All bins but the first, and the last of an even window, stand for their mirror image too.
        shares = torch.full((bins, 1), 2.0 / size)
        shares[0] = 1.0 / size
        if size % 2 == 0:
            shares[-1] = 1.0 / size
        for name, waves in (("cosines", cosines), ("sines", sines)):
            self.register_buffer(name, waves.T.float().contiguous(), False)
            self.register_buffer(f"{name}_back", (shares * waves).float(), False)

    def transform(self, frames: Tensor) -> Tensor:
        """Return the complex spectrum (..., bins) of frames (..., window)."""
        pairs, size = self.pairs, frames.shape[-1]
        before, behind = frames[..., 1 : pairs + 1], frames[..., size - pairs :].flip(-1)
        alone = [frames[..., :1], frames[..., pairs + 1 : size - pairs]]
        real = torch.matmul(torch.cat([*alone, before + behind], dim=-1), self.cosines)
        return torch.complex(real, torch.matmul(before - behind, self.sines))

    def inverse_transform(self, spectrum: Tensor) -> Tensor:
        """Return the frames (..., window) of a spectrum (..., bins)."""
        parts = torch.view_as_real(spectrum)
        even = torch.matmul(parts[..., 0], self.cosines_back)
        odd = torch.matmul(parts[..., 1], self.sines_back)
        pairs = self.pairs
        first, middle, paired = even[..., :1], even[..., 1:-pairs], even[..., -pairs:]
        return torch.cat([first, paired + odd, middle, (paired - odd).flip(-1)], dim=-1)


def graph_purifier(purifier: Purifier) -> Purifier:
    """Return a frozen copy of a purifier that an exporter can read."""
    return Purifier(
        graph_network(purifier.network), deepcopy(purifier.scale), purifier.front_end
    ).eval()


def graph_network(network: nn.Module) -> nn.Module:
    """Return a frozen copy that an exporter can read; batch norms are folded."""
    twin = frozen(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if isinstance(twin, CRNN):
        twin.register_module("gru", GraphGru(twin.gru))
    return twin  # type: ignore[no-any-return]


class GraphGru(nn.Module):
    """A bidirectional GRU of one layer as ONNX's own operator, which the exporter does not know.

    Args:
        gru: Gives the weights; with batches first.
    """

    w: Tensor
    r: Tensor
    b: Tensor

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.gru = gru
        self.hidden = gru.hidden_size
        ends = ("", "_reverse")
        for name, kind in (("w", "weight_ih_l0"), ("r", "weight_hh_l0")):
            both = [_update_first(getattr(gru, kind + end)) for end in ends]
            self.register_buffer(name, torch.stack(both), persistent=False)
        biases = [
            torch.cat([_update_first(getattr(gru, f"bias_{of}_l0{end}")) for of in ("ih", "hh")])
            for end in ends
        ]
        self.register_buffer("b", torch.stack(biases), persistent=False)

    @property
    def weight_ih_l0(self) -> Tensor:
        """What tells `CRNN` where it is computed."""
        weights: Tensor = self.gru.weight_ih_l0  # type: ignore[assignment]
        return weights

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return hidden states (B, F, 2 * hidden) of x (B, F, features)."""
        if not torch.compiler.is_exporting():
            hidden, _ = self.gru(x)
            return hidden, None
        batch, frames = x.shape[:2]
        found = torch.onnx.ops.symbolic(
            "GRU",
            [x.transpose(0, 1), self.w, self.r, self.b],
            {"hidden_size": self.hidden, "direction": "bidirectional", "linear_before_reset": 1},
            dtype=x.dtype,
            shape=(frames, 2, batch, self.hidden),
        )
        return found.permute(2, 0, 1, 3).flatten(2), None


def _update_first(weights: Tensor) -> Tensor:
    """Return torch's gates (reset, update, new) in ONNX's order (update, reset, new)."""
    reset, update, new = weights.detach().chunk(3)
    return torch.cat([update, reset, new])
