"""A classifier of sound that adds noise itself and answers with the mean over several draws.

Randomised smoothing in its soft form (Salman et al. 2019, section 2.1, after Cohen et al. 2019) of
a head that was trained to hear that noise: what is small beside the noise cannot move the answer
far, and nobody knows the noise that will be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from servax.errors import SettingError
from servax.features import set_level
from servax.kinds import check_size, check_types
from servax.models.encoder import LEVEL_DBFS, EncoderClassifier, EncoderHead, SpeechEncoder

LOWEST, HIGHEST = -10.0, 60.0
"""Of the ratio of a sound to the noise, in dB."""


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise that a classifier adds to what it hears."""

    snr_db: float
    """Level of each sound above the noise, in dB."""
    draws: int = 8
    """How many noisy copies are heard for one answer; each costs a pass of the encoder."""

    def __post_init__(self) -> None:
        check_types(self)
        check_size("draws", self.draws, largest=1_000)
        if not LOWEST <= self.snr_db <= HIGHEST:
            expected = f"a number of dB in [{LOWEST:g}, {HIGHEST:g}]"
            raise SettingError("snr_db", self.snr_db, expected)

    def added(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        """Return sounds (B, T), brought to one level, with noise from the generator (on the CPU).

        The noise has one level for all sounds, so no attack on a sound changes that of its noise.
        """
        share: float = 10.0 ** ((LEVEL_DBFS - self.snr_db) / 20.0)
        noise = torch.randn(waveform.shape, generator=generator, dtype=waveform.dtype)
        return set_level(waveform, LEVEL_DBFS) + share * noise.to(waveform.device)


def log_mean(draws: Sequence[Tensor]) -> Tensor:
    """Return the log of the mean class probabilities (B, C) of several draws of logits (B, C)."""
    each = [logits.log_softmax(dim=1) for logits in draws]
    return torch.stack(each).logsumexp(dim=0) - math.log(len(each))


class SmoothedClassifier(EncoderClassifier):
    """Maps waveforms (B, T) to the log of the mean probability over noisy copies, (B, C).

    Args:
        encoder: What hears.
        head: What it is taken for; trained on sounds with this noise.
        noise: What is added, and how often.
        generator: Draws the noise (on the CPU), anew in each call. Default one that starts where
            nobody can foresee: whoever knows the noise can attack as if there were none.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        head: EncoderHead,
        noise: Noise,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(encoder, head)
        self.noise, self.generator = noise, generator or torch.Generator()
        if generator is None:
            self.generator.seed()

    def heard(self, sound: Tensor) -> Tensor:
        """Return log probabilities (B, C) of sounds (B, T) of one length."""
        each, hear = [], super().heard
        if self.noise.draws > 1 and torch.is_grad_enabled():
            # The graphs of all draws do not fit in memory; each is computed when it is needed.
            hear = partial(checkpoint, hear, use_reentrant=False)
        for _ in range(self.noise.draws):
            noisy = self.noise.added(sound, self.generator)
            each.append(hear(noisy))
        return log_mean(each)
