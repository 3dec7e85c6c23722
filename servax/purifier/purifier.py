"""A trained purifier with everything it needs to stand in front of a model.

Sound is purified by the change that P makes to the log-Mel, applied to the waveform. What lies
above the front-end's band passes unchanged but for the level, since only the difference is added to
the original. Forms of input, windows, level and limiter are those of `servax.runtime`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, max_pool1d, pad

from servax.audio import read_whole
from servax.errors import SettingError
from servax.features import (
    FrontEndSettings,
    LogMel,
    LogMelSettings,
    Resynthesis,
    Scale,
    Scaling,
    check_log_mels,
    check_type,
    check_waveforms,
    fit_frames,
    set_level,
)
from servax.kinds import check_kind, typed
from servax.models import Stored, frozen
from servax.recognition import Pretrained
from servax.runtime.limiter import TARGET, triangle
from servax.runtime.samples import STEP_16_BIT, Samples
from servax.runtime.stream import ALL, ClipCleaner, Mixture, SoundStream

__all__ = ["Mixture", "Purifier", "SoundPurifier", "SoundStream"]

CORRECTIONS = 2
"""More change little (`research/purified_sound.py`)."""


class Purifier(
    nn.Module,
    Pretrained,
    ClipCleaner,
    pipeline_tag="audio-to-audio",
    tags=["adversarial-purification", "speech-emotion-recognition"],
):
    """Maps log-Mel on [0, 1], perhaps attacked, to cleaned log-Mel on [0, 1] (eq. 8).

    Args:
        network: P, from (B, 1, M, F) to the same shape.
        scale: The scale it was trained on.
        front_end: The front-end settings it was trained on.
        speakers: Who was heard in its training, as the corpus names them; empty if nobody knows.

    Example:
        >>> purifier = Purifier.from_pretrained("runs/demo/models/ssad")  # doctest: +SKIP
        >>> cleaned = purifier(x)  # doctest: +SKIP
    """

    role = "purifier"
    writer = "Purifier.save_pretrained"
    about = """
# A purifier of servax

Takes log-Mel spectrograms of speech that may carry an adversarial attack and returns cleaned ones.
It stands in front of a speech emotion recogniser, whose weights it has never seen:

```python
import servax as sx

purifier = sx.Purifier.from_pretrained("path-or-hub-id")
cleaned = purifier.purify(waveform, sample_rate=16_000)
```
"""
    caution = (
        "**An attacker who knows the purifier takes the protection back.** Measure with `servax "
        "audit` what\nit is worth before your recogniser, and what it costs on clean speech."
    )

    @typed
    def __init__(
        self,
        network: nn.Module,
        scale: Scaling,
        front_end: FrontEndSettings | None = None,
        speakers: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self._hold(network, scale, front_end, speakers)

    def forward(self, x: Tensor) -> Tensor:
        """Return purified log-Mel (B, 1, M, F) on [0, 1]; exact gradients pass through.

        M is that of the front-end it was trained on. The scale is the caller's matter: dB, or any
        value outside [0, 1], is not looked for, since an attacker may ask there.

        Raises:
            ShapeError: `x` is of another shape.
            SettingError: `x` is no floating-point tensor, or of another type than the weights.
        """
        check_log_mels(x, self.front_end.logmel.mels)
        check_type("x", x.dtype, next(self.network.parameters(), x))
        purified: Tensor = self.network(x)
        return purified.clamp(0.0, 1.0)

    def fits(self, scale: Scaling | None, front_end: FrontEndSettings | None) -> bool:
        """Say whether inputs of a scale and a front-end are what it was trained to hear.

        Log-Mel and level must be the same, and so must a step of the scale in dB. Frames, and the
        level that becomes 1, may differ: corpora are then aligned at their loudest.
        """
        ours, other = self.front_end, front_end
        if scale is not None:
            check_kind("scale", scale, nn.Module)
        if other is not None:
            check_kind("front_end", other, FrontEndSettings)
        if other is None or (ours.logmel, ours.level_dbfs) != (other.logmel, other.level_dbfs):
            return False
        if isinstance(scale, Scale) and isinstance(self.scale, Scale):
            return scale.settings.window_db == self.scale.settings.window_db
        return scale is not None and scale.settings == self.scale.settings

    @property
    def rate(self) -> int:
        """Rate of the sound that the front-end hears, in Hz."""
        return self.front_end.logmel.sample_rate

    @property
    def clip_seconds(self) -> float:
        """How long a clip is at most: as long as in training."""
        return (self.front_end.frames - 1) * self.front_end.logmel.hop_seconds

    @torch.inference_mode()
    def difference(self, clip: Samples) -> Samples:
        """Return what purification adds to a clip (T,) at `rate`, at any level."""
        device = device_of(self)
        sound = torch.from_numpy(np.ascontiguousarray(clip)).unsqueeze(0).to(device)
        made = self.change(sound, _way(self.front_end.logmel, device)) - sound
        added: Samples = made[0].cpu().numpy()
        return added

    def change(self, sound: Tensor, way: Resynthesis) -> Tensor:
        """Return sound (1, T) at `rate` as its log-Mel changes, differentiably and exportably.

        A gain of each bin moves its neighbours' Mel bins and frames too, so what is heard of the
        result is not what P gave: the difference is applied again, `CORRECTIONS` times.

        Args:
            sound: One sound.
            way: To log-Mel and back.
        """
        settings, logmel, scale = self.front_end, way.logmel, self.scale
        levelled = sound if settings.level_dbfs is None else set_level(sound, settings.level_dbfs)
        gain = levelled.norm() / sound.norm().clamp(min=1e-12)
        x = scale(logmel(levelled))
        weights = next(self.network.parameters(), x)
        given = fit_frames(x, settings.frames).to(weights.dtype)
        wanted = scale.inverse(self(given).to(x)[..., : x.shape[-1]])
        change = wanted - scale.inverse(x)
        changed, unit = way.of(sound), logmel.settings.db_per_unit
        made: Tensor = changed(unit * change)
        for _ in range(CORRECTIONS):
            change = change + wanted - scale.inverse(scale(logmel(gain * made)))
            made = changed(unit * change)
        return made

    def samples_of_file(self, file: str | Path | bytes) -> tuple[Samples, int]:
        """Return the samples (channels, T) of a file, or of the bytes of one, and its rate."""
        return read_whole(file)

    def frozen(self) -> Purifier:
        """Return a copy for inference: evaluation mode, no parameter gradients."""
        copied = Purifier(frozen(self.network), self.scale, self.front_end, self.speakers).eval()
        return copied.mixed(self.mixture)

    @classmethod
    def _of(
        cls, stored: Stored, scale: Scaling, front_end: FrontEndSettings, speakers: list[str]
    ) -> Self:
        return cls(stored.network, scale, front_end, speakers).eval()


class SoundPurifier(nn.Module):
    """Maps waveforms (B, T) to purified ones of the same length and level (`Purifier.purify`).

    They stay within full scale by the same limiter. Exact gradients pass through all of it, so that
    an attacker may know it.

    Args:
        purifier: The purifier; its front-end's rate must be `sample_rate`.
        sample_rate: In Hz.

    Raises:
        SettingError: The rates differ: resampling here would hide part of the defence's effect.
    """

    knowledge = "adaptive"

    @typed
    def __init__(self, purifier: Purifier, sample_rate: int) -> None:
        super().__init__()
        check_kind("purifier", purifier, Purifier)
        if sample_rate != purifier.rate:
            expected = f"{purifier.rate} Hz, which the purifier hears"
            raise SettingError("sample_rate", sample_rate, expected)
        self.purifier, self.mixture = purifier.frozen(), purifier.mixture
        self.way = Resynthesis(LogMel(purifier.front_end.logmel)).to(device_of(purifier))
        self.windows = purifier.windows(sample_rate)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return purified waveforms (B, T), on their device, which must be the module's.

        Raises:
            ShapeError: They are not (B, T), or without sounds.
            SettingError: They are no floating-point tensor, or of a wider type than the weights.
        """
        check_waveforms(waveform)
        # One by one: level and windows belong to a sound alone.
        return torch.cat([self._one(sound) for sound in torch.split(waveform, 1)])

    def _one(self, sound: Tensor) -> Tensor:
        total, ceiling = torch.zeros_like(sound), torch.ones_like(sound)
        for start, stop, weights in self.windows.weighted(sound.shape[1]):
            part = self._clip(sound[:, start:stop]) * torch.from_numpy(weights).to(sound)
            total = total + pad(part, (start, sound.shape[1] - stop))
            peak = sound[:, start:stop].detach().abs().max().clamp(min=1.0)
            ceiling[:, start + int((weights > 0).argmax()) :] = peak
        return self._within(total, ceiling)

    def _within(self, sound: Tensor, ceiling: Tensor) -> Tensor:
        """Return sound (1, T) as `servax.runtime.limiter` keeps it within ceilings (1, T)."""
        guard, hold = self.windows.guard, self.windows.hold
        beyond = (sound.abs() / ceiling - STEP_16_BIT).clamp(min=1.0)
        needs = (1.5 - beyond / 2.0).clamp(min=TARGET) / beyond
        if self._all_within(needs):
            return torch.minimum(torch.maximum(sound, -ceiling), ceiling)
        padded = pad(needs, (hold + guard, guard), value=1.0)
        gains = -max_pool1d(-padded, hold + guard + 1, stride=1)  # (1, T + guard)
        for width in triangle(guard):
            mean = torch.full((1, 1, width), 1.0 / width).to(sound)
            gains = conv1d(gains.unsqueeze(1), mean).squeeze(1)
        return torch.minimum(torch.maximum(sound * gains, -ceiling), ceiling)

    @staticmethod
    def _all_within(needs: Tensor) -> bool:
        return float(needs.detach().min()) == 1.0

    def _clip(self, sound: Tensor) -> Tensor:
        cleaned = self.purifier.change(sound, self.way)
        if self.mixture != ALL:
            change = cleaned - sound
            # At exactly 0 a root has no gradient.
            level, changed = (s.square().mean().clamp(min=1e-24).sqrt() for s in (sound, change))
            cleaned = sound + self.mixture.share(level, changed) * change
        given, made = (s.square().mean().sqrt() for s in (sound, cleaned))
        levelled: Tensor = cleaned * (given / made.clamp(min=1e-12))
        return levelled


@lru_cache(maxsize=8)
def _way(settings: LogMelSettings, device: torch.device) -> Resynthesis:
    """Return the way to log-Mel and back on a device; all files of a folder share it."""
    return Resynthesis(LogMel(settings)).to(device)


def device_of(module: nn.Module) -> torch.device:
    """Return where a module computes; what has no weights does so on the CPU."""
    held = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if held is None else held.device
