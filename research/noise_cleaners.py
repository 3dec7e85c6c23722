"""Cleaners that know the white noise before them: Wiener's filter, and a small mask behind it.

Noise of a stated ratio to the level of the sound is added, the short-time spectrum (window 512, hop
128, at 16 kHz) is multiplied by a gain in [0, 1] for each bin, the phase stays that of the noisy
sound. All of it is torch, from (B, T) to (B, T), with exact gradients for each draw.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from servax.defences.noise_wiener import DecisionDirected
from servax.training import drawn

WINDOW, HOP = 512, 128
BINS = WINDOW // 2 + 1
REACH = 4.0
"""How far the mask moves the logit of a gain either way."""


def noisy(x: Tensor, snr_db: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return x (B, T) with white noise, and the noise's standard deviation (B, 1)."""
    level = x.pow(2).mean(dim=1, keepdim=True).clamp(min=1e-12).sqrt()
    sigma = level * 10.0 ** (-snr_db / 20.0)
    return x + sigma * drawn(torch.randn, x.shape, draws, x.dtype), sigma


def wiener_gains(posterior: Tensor) -> Tensor:
    """Return the gains (B, BINS, N) of the decision-directed Wiener filter.

    Args:
        posterior: A posteriori SNR of each bin, |Y|^2 over the noise's expected power.
    """
    gains: Tensor = DecisionDirected.apply(posterior.transpose(1, 2))
    return gains.transpose(1, 2)


class Mask(nn.Module):
    """Convolutions over frames that correct the gains of Wiener's filter (or make them alone).

    Four residual blocks of width 96 with dilations 1, 2, 4 and 4 look 11 frames ahead; with a
    window that is 120 ms. At its zero start it is Wiener's filter.

    Args:
        informed: Whether it sees and corrects Wiener's gains; otherwise one half everywhere.
        width: Channels.
    """

    def __init__(self, *, informed: bool = True, width: int = 96) -> None:
        super().__init__()
        self.informed = informed
        self.first = nn.Conv1d(2 * BINS, width, 1)
        self.wide = nn.ModuleList(
            nn.Conv1d(width, width, 3, dilation=d, padding=d) for d in (1, 2, 4, 4)
        )
        self.back = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in self.wide)
        self.last = nn.Conv1d(width, BINS, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, posterior: Tensor) -> Tensor:
        """Return gains (B, BINS, N) of a posteriori SNRs of that shape."""
        if self.informed:
            start = torch.logit(wiener_gains(posterior).clamp(max=1.0 - 1e-4))
        else:
            start = torch.zeros_like(posterior)
        x = self.first(torch.cat([torch.log10(posterior + 1e-2), start / REACH], dim=1))
        for wide, back in zip(self.wide, self.back, strict=True):
            x = x + back(gelu(wide(gelu(x))))
        return torch.sigmoid(start + REACH * torch.tanh(self.last(gelu(x))))


class NoiseThenGain(nn.Module):
    """Adds noise, and cleans it with gains of the a posteriori SNR; each call draws anew.

    Args:
        snr_db: Ratio of the sound's level to that of the noise; the cleaner knows it.
        gains: From a posteriori SNRs (B, BINS, N) to gains; none leaves the noise as it is.
        draws: Draws the noise.
    """

    window: Tensor

    def __init__(self, snr_db: float, gains: nn.Module | None, draws: torch.Generator) -> None:
        super().__init__()
        self.snr_db, self.gains, self.draws = snr_db, gains, draws
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return cleaned noisy sound (B, T) of sound (B, T)."""
        sound, sigma = noisy(x, self.snr_db, self.draws)
        if self.gains is None:
            return sound
        spectrum = torch.stft(sound, WINDOW, HOP, window=self.window, return_complex=True)
        power = (sigma.square() * self.window.square().sum()).unsqueeze(-1)
        gains = self.gains((spectrum.real.square() + spectrum.imag.square()) / power)
        return torch.istft(spectrum * gains, WINDOW, HOP, window=self.window, length=x.shape[1])


class WienerGains(nn.Module):
    """Wiener's filter as a module without weights."""

    def forward(self, posterior: Tensor) -> Tensor:
        """Return `wiener_gains`."""
        return wiener_gains(posterior)


def stft_loss(x: Tensor, cleaned: Tensor) -> Tensor:
    """Return the multi-resolution STFT loss, a scalar: shape of the spectrum, and log magnitude.

    Spectral convergence and mean log ratio at windows 256, 512 and 1024 (Yamamoto et al. 2020,
    "Parallel WaveGAN", eq. 6 and 7). Differs in: magnitudes below -80 dB of full scale count as
    that, since silence has no logarithm.
    """
    total = x.new_zeros(())
    for window in (256, 512, 1024):
        hann = torch.hann_window(window)
        old, new = (
            torch.stft(each, window, window // 4, window=hann, return_complex=True)
            .abs()
            .clamp(min=1e-4 * math.sqrt(window))
            for each in (x, cleaned)
        )
        total = total + ((new - old).flatten(1).norm(dim=1) / old.flatten(1).norm(dim=1)).mean()
        total = total + (new.log() - old.log()).abs().mean()
    return total / 3
