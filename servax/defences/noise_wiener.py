"""White noise, then a Wiener filter that knows it: `servax.runtime.NoiseWiener`, differentiable.

The equations and their source stand in `servax.runtime.noise_wiener`. What the attacker knows is
everything but the draw: the kind and level of the noise, the filter, and that the level follows the
sound. Whoever attacks averages over draws (`ExpectationOverDraws`), and so may whoever answers: the
mean of the probabilities of n draws costs n passes of filter and recogniser.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from servax.defences.transforms import RATE, WaveformTransform
from servax.errors import ShapeError
from servax.features import overlap_added
from servax.kinds import typed
from servax.runtime.noise_wiener import (
    FLOOR,
    HOPS,
    LEVEL_SECONDS,
    OVERLAP,
    QUIETEST,
    SMOOTHING,
    SNR_DB,
    hann,
    hop_at,
    relative_deviation,
)


class NoiseWiener(WaveformTransform):
    """Adds white noise of a known level to waveforms (B, T), and filters it out again.

    Silence before and behind a sound is noisy too, as in the paper's equations a frame is; the
    result is clamped to [-1, 1].

    Args:
        snr_db: Of the noisy sound, in [0, 60] dB: level of its first 30 s to that of the noise
            below 8 kHz. 20 and 15 were measured (docs/defences.md).
        generator: Draws the noise (on the CPU), anew for each utterance and each call.
        sample_rate: In Hz.

    Example:
        >>> noise_wiener = NoiseWiener(20.0, torch.Generator().manual_seed(0))
        >>> noise_wiener(torch.zeros(2, 16_000)).shape
        torch.Size([2, 16000])
    """

    @typed
    def __init__(
        self, snr_db: float, generator: torch.Generator, sample_rate: int = 16_000
    ) -> None:
        super().__init__()
        SNR_DB.check("snr_db", snr_db)
        RATE.check("sample_rate", sample_rate)
        self.snr_db = snr_db
        self.generator = generator
        self.hop = hop_at(sample_rate)
        self.relative = relative_deviation(snr_db, sample_rate)
        self.measured = round(LEVEL_SECONDS * sample_rate)

    def changed(self, x: Tensor) -> Tensor:
        """Return x (B, T) with noise and without it again."""
        shape = (len(x), self.covered(x.shape[1]))
        noise = torch.randn(shape, generator=self.generator, dtype=x.dtype).to(x.device)
        return self.filtered(x, noise).clamp(-1.0, 1.0)

    def covered(self, length: int) -> int:
        """Return how many samples the frames of a sound (T,) cover, beyond both its ends."""
        return self.hop * (-(-length // self.hop) + 2 * (HOPS - 1))

    def filtered(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the same, not clamped, for one draw of the noise.

        Args:
            x: (B, T).
            noise: (B, `covered`) of unit variance; begins three hops before the sound.

        Raises:
            ShapeError: `noise` is of another length.
        """
        before, length = (HOPS - 1) * self.hop, x.shape[1]
        expected = (len(x), self.covered(length))
        if noise.shape != expected:
            raise ShapeError("noise", noise.shape, f"{expected} for this sound")
        level = x[:, : self.measured].square().mean(1, keepdim=True).clamp(min=QUIETEST**2).sqrt()
        deviation = self.relative * level  # (B, 1)
        noisy = pad(x, (before, noise.shape[1] - before - length)) + deviation * noise
        window = torch.from_numpy(hann(self.hop)).to(x)
        frames = noisy.unfold(1, HOPS * self.hop, self.hop) * window  # (B, F, window)
        spectrum = torch.fft.rfft(frames)  # (B, F, bins)
        power = spectrum.real.square() + spectrum.imag.square()
        post = power / (deviation.square() * OVERLAP * self.hop)[:, :, None]
        gain: Tensor = DecisionDirected.apply(post)  # type: ignore[no-untyped-call]
        cleaned = torch.fft.irfft(gain * spectrum, n=HOPS * self.hop) * (window / OVERLAP)
        return overlap_added(cleaned, self.hop)[:, before : before + length]


class DecisionDirected(torch.autograd.Function):
    """Maps a posteriori SNR (B, F, bins) to gains; frame by frame, both ways, in place.

    Its gradient is a recursion from the last frame to the first. Autograd over the same loop takes
    four times as long, and fixed-point iterations over all frames at once, of which 40 are exact,
    eight times (benchmarks/noise_wiener.py).
    """

    @staticmethod
    def forward(ctx: Any, post: Tensor) -> Tensor:
        """Return gains (B, F, bins)."""
        prior = (post - 1.0).clamp_(min=0.0).mul_(1.0 - SMOOTHING)
        prior[:, 0] += SMOOTHING
        gain = torch.empty_like(prior)
        for n in range(post.shape[1]):
            if n:
                prior[:, n].addcmul_(gain[:, n - 1].square(), post[:, n - 1], value=SMOOTHING)
            torch.div(prior[:, n], prior[:, n] + 1.0, out=gain[:, n]).clamp_(min=FLOOR)
        ctx.save_for_backward(post, prior, gain)
        return gain

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Tensor:
        """Return the gradient (B, F, bins)."""
        post, prior, gain = ctx.saved_tensors
        slope = (gain > FLOOR) / (prior + 1.0).square()  # d gain(n) / d prior(n)
        passed = 2.0 * SMOOTHING * gain * post * slope  # d prior(n + 1) / d prior(n)
        of_prior = outer * slope
        for n in range(post.shape[1] - 2, -1, -1):
            of_prior[:, n].addcmul_(passed[:, n], of_prior[:, n + 1])
        found: Tensor = (1.0 - SMOOTHING) * (post > 1.0) * of_prior
        found[:, :-1] += SMOOTHING * gain[:, :-1].square() * of_prior[:, 1:]
        return found
