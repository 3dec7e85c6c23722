"""Kaldi's log-Mel filter bank, differentiable down to the waveform, as published models hear it.

Frames of 25 ms every 10 ms, whole ones only: the mean taken off, pre-emphasis of .97, a window, the
power spectrum, triangles on the Mel scale, natural logarithm (Povey et al. 2011, feature-fbank.cc).
The Audio Spectrogram Transformer and wav2vec2-BERT differ in what `KaldiSettings` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from servax.errors import ShapeError
from servax.features.tensors import check_waveforms
from servax.kinds import COUNT, POSITIVE, Choice, Rules, check_types

PRE_EMPHASIS = 0.97
LOWEST_HZ = 20.0
FLOOR = float(torch.finfo(torch.float32).eps)
"""Least energy of a band."""
Window = Literal["hann", "povey"]
"""Povey's is Hann's to the power of .85."""


@dataclass(frozen=True)
class KaldiSettings:
    """What the extractors of published models set."""

    mels: int = 80
    """Number M of Mel bins."""
    sample_rate: int = 16_000
    """In Hz."""
    window: Window = "povey"
    """By which each frame is weighed."""
    gain: float = 1.0
    """What samples are multiplied by first: 32768 for those that count in steps of 16 bits."""
    frames: int | None = None
    """Cut, or filled with zeros, to so many frames; none for those that there are."""
    standard: tuple[float, float] | None = None
    """Centre and spread to be taken off; none for those of each bin in each sound."""
    stride: int = 1
    """Frames that stand side by side in one row of features; what fills no row is left out."""
    RULES: ClassVar[Rules] = {
        "mels": COUNT,
        "sample_rate": COUNT,
        "window": Choice(get_args(Window)),
        "gain": POSITIVE,
        "stride": COUNT,
    }

    def __post_init__(self) -> None:
        check_types(self)

    @classmethod
    def of(cls, extractor: Any) -> KaldiSettings:
        """Return what a feature extractor of transformers is set to.

        Args:
            extractor: An ``ASTFeatureExtractor``, or else a ``SeamlessM4TFeatureExtractor``.
        """
        shared = {"mels": extractor.num_mel_bins, "sample_rate": extractor.sampling_rate}
        if type(extractor).__name__ != "ASTFeatureExtractor":
            return cls(**shared, gain=2.0**15, stride=extractor.stride)
        standard = (extractor.mean, 2 * extractor.std) if extractor.do_normalize else (0.0, 1.0)
        frames = extractor.max_length
        return cls(**shared, window="hann", frames=frames, standard=standard)


class KaldiFilterBank(nn.Module):
    """Turns waveforms (B, T) into features (B, F // stride, stride * M).

    Args:
        settings: Of the model that hears them.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, settings: KaldiSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.length, self.hop = (s.sample_rate * ms // 1000 for ms in (25, 10))
        self.points = 2 ** math.ceil(math.log2(self.length))
        window = torch.hann_window(self.length, periodic=False, dtype=torch.float64)
        window = window if s.window == "hann" else window**0.85
        self.register_buffer("window", window, persistent=False)
        hz = torch.arange(self.points // 2 + 1) * (s.sample_rate / self.points)
        lowest, highest = _mel(torch.tensor([LOWEST_HZ, s.sample_rate / 2])).tolist()
        corners = torch.linspace(lowest, highest, s.mels + 2, dtype=torch.float64)
        slopes = (_mel(hz)[:, None] - corners[:-1]) / corners.diff()  # (bins, M + 1)
        filters = torch.minimum(slopes[:, :-1], 1 - slopes[:, 1:]).clamp(min=0.0)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the features of waveforms (B, T).

        Raises:
            ShapeError: They are not (B, T), or shorter than a row of frames.
            SettingError: They are no floating-point tensor.
        """
        check_waveforms(waveform)
        s = self.settings
        shortest = self.length + (s.stride - 1) * self.hop
        if waveform.shape[1] < shortest:
            raise ShapeError("waveform", waveform.shape, f"(B, T) with T of at least {shortest}")
        # In float64: float32 is off by 1e-4 in quiet bins beside loud ones.
        frames = (waveform.double() * s.gain).unfold(1, self.length, self.hop)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        weighed = (frames - PRE_EMPHASIS * before) * self.window
        power = torch.view_as_real(torch.fft.rfft(weighed, n=self.points)).square().sum(dim=-1)
        levels = (power @ self.filters).clamp(min=FLOOR).log()  # (B, F, M)
        if s.standard is None:
            variance, mean = torch.var_mean(levels, dim=1, keepdim=True)
            levels = (levels - mean) / (variance + 1e-7).sqrt()
        if s.frames is not None:
            levels = levels[:, : s.frames]
            levels = nn.functional.pad(levels, (0, 0, 0, s.frames - levels.shape[1]))
        if s.standard is not None:
            levels = (levels - s.standard[0]) / s.standard[1]
        rows = levels.shape[1] // s.stride
        return levels[:, : rows * s.stride].reshape(len(levels), rows, -1).to(waveform.dtype)


def _mel(hz: Tensor) -> Tensor:
    """Return the Mel values of frequencies in Hz, in float64."""
    return 1127.0 * torch.log1p(hz.double() / 700.0)
