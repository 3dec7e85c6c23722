"""Input transforms of waveforms: cut away the band where speech has little and attacks have room.

Each maps waveforms (B, T) on [-1, 1] to the same, without delay, with exact gradients. Beyond both
ends of a clip is silence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from servax.errors import SettingError, ShapeError
from servax.kinds import check, check_number, typed

LOWEST_RATE = 1_000
LARGEST_RATIO = 2_000
"""Largest term of a reduced ratio of rates: there is one filter for each of so many phases."""


def check_rate(name: str, sample_rate: int) -> None:
    """Refuse a sample rate that is not a whole number of at least 1000 Hz."""
    check_number(name, sample_rate)
    # NaN fails the first comparison, infinity the second.
    if not (LOWEST_RATE <= sample_rate < math.inf and sample_rate == int(sample_rate)):
        raise SettingError(name, sample_rate, f"a whole number of at least {LOWEST_RATE} Hz")


def check_waveforms(x: Tensor) -> None:
    """Refuse what is not (B, T)."""
    if x.ndim != 2:
        raise ShapeError("x", x.shape, "waveforms (B, T)")


class LowPass(nn.Module):
    """Removes what lies above a cutoff, by a linear-phase FIR filter (sinc, Hamming window).

    The gain is 1/2 at the cutoff and goes from 1 to 0 within 3.3 sample_rate / taps around it.

    Args:
        sample_rate: In Hz.
        cutoff: In Hz, below half the sample rate.
        taps: Length of the filter in samples, odd, so that nothing is delayed.
    """

    knowledge = "adaptive"
    """Exact gradients."""

    def __init__(self, sample_rate: int, cutoff: float, taps: int = 255) -> None:
        super().__init__()
        check_rate("sample_rate", sample_rate)
        check("cutoff", cutoff, "float")
        check("taps", taps, "int")
        if not 0 < cutoff < sample_rate / 2:
            raise SettingError("cutoff", cutoff, f"a frequency in (0, {sample_rate / 2:g}) Hz")
        if taps < 3 or taps % 2 == 0:
            raise SettingError("taps", taps, "an odd whole number of at least 3")
        time = torch.arange(taps, dtype=torch.float64) - taps // 2
        kernel = torch.sinc(2.0 * cutoff / sample_rate * time)
        kernel = kernel * torch.hamming_window(taps, periodic=False, dtype=torch.float64)
        self.kernel = kernel / kernel.sum()

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return filtered x (B, T)."""
        check_waveforms(x)
        kernel = self.kernel.to(x.dtype).to(x.device)
        filtered = conv1d(x[:, None], kernel[None, None], padding=len(kernel) // 2)
        return filtered[:, 0].clamp(-1.0, 1.0)


class Resample(nn.Module):
    """Converts to a lower sample rate and back, which removes what the lower rate cannot hold.

    Band-limited interpolation with a windowed sinc in its polyphase form (Smith, "Digital Audio
    Resampling"), Hann window, as torchaudio's.

    Args:
        sample_rate: In Hz.
        down_to: The lower rate, in Hz.
        crossings: Zero crossings of the sinc on each side; more make a steeper edge.
        rolloff: Cutoff as a share of half the lower rate.
    """

    knowledge = "adaptive"
    """Exact gradients."""

    def __init__(
        self, sample_rate: int, down_to: int, *, crossings: int = 16, rolloff: float = 0.99
    ) -> None:
        super().__init__()
        check_rate("sample_rate", sample_rate)
        check_rate("down_to", down_to)
        check("crossings", crossings, "int")
        check("rolloff", rolloff, "float")
        if down_to >= sample_rate:
            raise SettingError("down_to", down_to, f"a rate below sample_rate ({sample_rate} Hz)")
        common = math.gcd(int(sample_rate), int(down_to))
        if sample_rate // common > LARGEST_RATIO:
            raise SettingError(
                "down_to",
                down_to,
                f"a rate whose greatest common divisor with {sample_rate} Hz is at least "
                f"{math.ceil(sample_rate / LARGEST_RATIO)} (it is {common})",
            )
        if crossings < 1:
            raise SettingError("crossings", crossings, "a whole number of at least 1")
        if not 0 < rolloff <= 1:
            raise SettingError("rolloff", rolloff, "a share in (0, 1]")
        self.high, self.low = int(sample_rate) // common, int(down_to) // common
        self.down = _kernels(self.high, self.low, crossings, rolloff)
        self.up = _kernels(self.low, self.high, crossings, rolloff)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, T) as the lower rate can hold it."""
        check_waveforms(x)
        low = _convert(x, self.down, self.high, self.low)  # (B, ceil(T low / high))
        back = _convert(low, self.up, self.low, self.high)
        return back[:, : x.shape[1]].clamp(-1.0, 1.0)


def _kernels(old: int, new: int, crossings: int, rolloff: float) -> Tensor:
    """Return one filter for each phase of the new rate, (new, 2 reach + old), float64.

    Output sample ``new k + phase`` is the inner product of filter `phase` with the input around
    sample ``old k``: sinc(f (j / old - phase / new)) with f = rolloff min(old, new), which is where
    a cutoff of half the lower rate stands when time is counted in units of 1 / gcd seconds.
    """
    cutoff = rolloff * min(old, new)
    reach = math.ceil(crossings * old / cutoff)
    inputs = torch.arange(-reach, reach + old, dtype=torch.float64) / old
    phases = torch.arange(new, dtype=torch.float64) / new
    time = (cutoff * (inputs - phases[:, None])).clamp(-crossings, crossings)
    window = torch.cos(math.pi * time / (2 * crossings)).square()
    return torch.sinc(time) * window * (cutoff / old)


def _convert(x: Tensor, kernels: Tensor, old: int, new: int) -> Tensor:
    """Return x (B, T) at the new rate, (B, ceil(T new / old))."""
    length = x.shape[1]
    reach = (kernels.shape[1] - old) // 2
    filters = kernels.to(x.dtype).to(x.device)[:, None]  # (new, 1, width)
    frames = conv1d(pad(x[:, None], (reach, reach + old)), filters, stride=old)  # (B, new, n)
    return frames.transpose(1, 2).flatten(1)[:, : -(-length * new // old)]
