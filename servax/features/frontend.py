"""The whole way from a waveform to fixed-size log-Mel: level, log-Mel, fit to frames.

The level step is ours: RAVDESS is so quiet (median RMS 278 of 32768) that a fixed dB window would
throw its speech away, so each utterance is brought to one RMS level first. It can be switched off.

The number of frames, 373, is `seq_len` of the official code of Ren et al. 2020 ([18]), which takes
the middle of longer utterances and **repeats** shorter ones. Zero fill is the ablation: it gives an
attacker pixels that never carried sound.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.features import logmel
from servax.features.logmel import LogMel, LogMelSettings
from servax.features.tensors import check_waveforms
from servax.kinds import COUNT, Choice, Rule, Rules, check_kind, check_types, typed
from servax.runtime.samples import as_samples

Fill = Literal["repeat", "floor"]
# A clip below this RMS (-100 dBFS) is silence; raising it further would only raise its dither.
SILENCE_RMS = 1e-5


@dataclass(frozen=True)
class FrontEndSettings:
    """What happens between a waveform and the input of a classifier."""

    logmel: LogMelSettings = field(default_factory=LogMelSettings)
    """The spectrogram."""
    level_dbfs: float | None = -26.0
    """RMS level each utterance is brought to, in dB below full scale; none leaves it alone."""
    frames: int = 373
    """Frames per utterance (373 is about 6 s); longer ones keep their middle."""
    fill: Fill = "repeat"
    """How shorter utterances are filled: `repeat` ([18]) or `floor`."""

    RULES: ClassVar[Rules] = {
        "level_dbfs": Rule("a level in (-100, 0] dBFS, or none", lambda level: -100 < level <= 0),
        "frames": COUNT,
        "fill": Choice(("repeat", "floor")),
    }

    def __post_init__(self) -> None:
        check_types(self)
        # Settings read back from JSON arrive as plain dicts.
        if isinstance(self.logmel, dict):
            object.__setattr__(self, "logmel", LogMelSettings(**self.logmel))


@typed
def set_level(waveform: Tensor, level_dbfs: float) -> Tensor:
    """Return (..., T) waveforms at an RMS level in dBFS.

    What is quieter than `SILENCE_RMS` is raised only as much as a clip at that level would be.
    """
    rms = waveform.pow(2).mean(dim=-1, keepdim=True).clamp(min=SILENCE_RMS**2).sqrt()
    gain: float = 10.0 ** (level_dbfs / 20.0)
    return waveform * (gain / rms)


class FrontEnd(nn.Module):
    """Turns (B, T) waveforms into (B, 1, M, frames) log-Mel in dB, differentiably."""

    def __init__(self, settings: FrontEndSettings | None = None) -> None:
        super().__init__()
        self.settings = FrontEndSettings() if settings is None else settings
        check_kind("settings", self.settings, FrontEndSettings)
        self.logmel = LogMel(self.settings.logmel)

    @property
    def sample_rate(self) -> int:
        """Of the waveforms, in Hz."""
        return self.settings.logmel.sample_rate

    @property
    def shape(self) -> tuple[int, int]:
        """Mel bins and frames of one utterance."""
        return self.settings.logmel.mels, self.settings.frames

    @property
    def code(self) -> tuple[ModuleType, ...]:
        """Modules whose source decides what comes out, for the cache."""
        return logmel, sys.modules[__name__]

    def forward(self, waveform: Tensor) -> Tensor:
        """Return log-Mel (B, 1, M, frames) of (B, T) waveforms.

        Raises:
            ShapeError: They are not (B, T).
            SettingError: They are no floating-point tensor.
        """
        check_waveforms(waveform)
        s = self.settings
        if s.level_dbfs is not None:
            waveform = set_level(waveform, s.level_dbfs)
        half = s.logmel.window_samples // 2
        if waveform.shape[1] and (torch.compiler.is_exporting() or waveform.shape[1] <= half):
            # A clip shorter than half a window cannot be reflected at its ends; an exporter cannot
            # branch by length.
            missing = larger(half + 1 - waveform.shape[1], 0)
            waveform = nn.functional.pad(waveform, (0, missing))
        return fit_frames(self.logmel(waveform), s.frames, fill=s.fill)


def waveform_batch(waveform: Tensor | object) -> Tensor:
    """Return a (T,) array or tensor as a (1, T) float32 tensor; gradients pass.

    Raises:
        SettingError: They are no samples; whole numbers have the full scale of their type.
    """
    if not (isinstance(waveform, Tensor) and waveform.is_floating_point()):
        waveform = torch.from_numpy(as_samples("waveform", waveform))
    return waveform.float().reshape(1, -1)


@typed
def fit_frames(logmel: Tensor, frames: int, *, fill: Fill = "repeat") -> Tensor:
    """Return `logmel` with exactly `frames` frames.

    Args:
        logmel: (..., M, F) with F >= 1.
        frames: Number of frames wanted, at least 1.
        fill: For F < frames: ``repeat`` the utterance from its start, or fill the end with the
            lowest value of each spectrogram (``floor``).

    Returns:
        (..., M, frames): the middle of a longer input, the filled shorter one.

    Raises:
        SettingError: `frames` is below 1, the input is empty, or `fill` is unknown.
    """
    FrontEndSettings.RULES["frames"].check("frames", frames)
    FrontEndSettings.RULES["fill"].check("fill", fill)
    have = logmel.shape[-1]
    if have == 0:
        raise SettingError("number of frames", have, "at least 1 to crop or to fill from")
    if not torch.compiler.is_exporting() and have >= frames:
        start = (have - frames) // 2
        return logmel[..., start : start + frames]  # no copy
    # An exporter cannot branch by length, and knows remainders by a tensor alone.
    place = torch.arange(frames, device=logmel.device) + larger(have - frames, 0) // 2
    fitted = logmel.index_select(-1, place % torch.full((1,), have, device=logmel.device))
    if fill == "repeat":
        return fitted
    return torch.where(place < have, fitted, logmel.amin(dim=(-2, -1), keepdim=True))


def larger(one: int, other: int) -> int:
    """Return the larger length, also where an exporter knows one only when the graph runs."""
    length: int = torch.sym_max(one, other)  # type: ignore[no-untyped-call]
    return length
