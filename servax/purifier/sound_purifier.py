"""A purifier in front of a model that eats waveforms, differentiably."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, max_pool1d, pad

from servax.errors import SettingError
from servax.features import LogMel, Resynthesis, check_waveforms
from servax.kinds import check_kind, typed
from servax.purifier.purifier import Purifier, device_of
from servax.runtime.limiter import TARGET, triangle
from servax.runtime.samples import STEP_16_BIT


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
        self.purifier = purifier.frozen()
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
        given, made = (s.square().mean().sqrt() for s in (sound, cleaned))
        levelled: Tensor = cleaned * (given / made.clamp(min=1e-12))
        return levelled
