"""What a recogniser's training input goes through: SpecAugment, and rolls of the frames.

SpecAugment masks time and Mel bins of log-Mel (Park et al. 2019, without time warping). Masks are
drawn apart from being applied, so that a test can fix them and a run can repeat them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from servax.errors import SettingError
from servax.kinds import check_types


@dataclass(frozen=True)
class SpecAugment:
    """How many masks are drawn for each utterance and how wide they may be."""

    time_masks: int = 2
    """Masks over frames."""
    time_width: int = 40
    """Widest time mask, in frames."""
    mel_masks: int = 2
    """Masks over Mel bins."""
    mel_width: int = 8
    """Widest Mel mask, in bins."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("time_masks", "time_width", "mel_masks", "mel_width"):
            if getattr(self, name) < 0:
                raise SettingError(name, getattr(self, name), "a whole number of at least 0")

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Return a boolean mask (B, 1, M, F), true where sound is to be removed."""
        batch, _, mels, frames = shape
        time = _stripes(batch, frames, self.time_masks, self.time_width, generator)
        mel = _stripes(batch, mels, self.mel_masks, self.mel_width, generator)
        return (time[:, None, None, :] | mel[:, None, :, None]).expand(shape)

    def apply(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return x (B, 1, M, F) with each utterance's mean where `mask` is true."""
        return torch.where(mask.to(x.device), x.mean(dim=(1, 2, 3), keepdim=True), x)


def _stripes(batch: int, length: int, count: int, width: int, generator: torch.Generator) -> Tensor:
    """Return (B, length), true inside `count` random stripes of at most `width`."""
    widths = torch.randint(0, min(width, length) + 1, (batch, count), generator=generator)
    room = (length - widths + 1).float()
    starts = (torch.rand((batch, count), generator=generator) * room).long()
    position = torch.arange(length)
    inside = (position >= starts[..., None]) & (position < (starts + widths)[..., None])
    return inside.any(dim=1)


def augmented(
    x: Tensor, draws: torch.Generator, *, shift: bool, augment: SpecAugment | None
) -> Tensor:
    """Return x (B, 1, M, F) rolled by a random number of frames, then masked, if asked for."""
    if shift:
        shifts = torch.randint(0, x.shape[3], (len(x),), generator=draws)
        x = roll_frames(x, shifts.to(x.device))
    if augment is not None:
        x = augment.apply(x, augment.draw(x.shape, draws))
    return x


def roll_frames(x: Tensor, shifts: Tensor) -> Tensor:
    """Return x (B, 1, M, F) with utterance b rolled right by ``shifts[b]`` frames."""
    frames = x.shape[3]
    index = (torch.arange(frames, device=x.device)[None] - shifts[:, None]) % frames  # (B, F)
    return torch.gather(x, 3, index[:, None, None, :].expand_as(x))
