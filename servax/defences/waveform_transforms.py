"""Input transforms of waveforms, (B, T) on [-1, 1] to the same, without delay.

`LowPass` and `Resample` cut away the band where speech has little and attacks have room; beyond
both ends of a clip is silence. `Codec` throws away what cannot be heard, and attacks with it, after
Das et al. 2018 (ADAGIO): libsndfile encodes and decodes in memory, and itself removes the delay of
each codec. A codec has no gradient, so the identity stands in its place in the backward pass (BPDA,
Athalye et al. 2018); the others have exact ones.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from servax.errors import ServaxError, SettingError, ShapeError
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


@dataclass(frozen=True)
class Format:
    """A codec, in libsndfile's words."""

    container: str
    subtype: str
    rates: tuple[int, ...] | None = None
    """Sample rates it takes, in Hz; None for any."""


FORMATS = {
    "mp3": Format(
        "MP3",
        "MPEG_LAYER_III",
        (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    ),
    "ogg-vorbis": Format("OGG", "VORBIS"),
    "ogg-opus": Format("OGG", "OPUS", (8_000, 12_000, 16_000, 24_000, 48_000)),
}
STRONGEST = 0.999
"""libsndfile refuses MP3 at a compression level of 1 (its encoder's quality ends below 10)."""


class Codec(nn.Module):
    """Encodes waveforms (B, T) on [-1, 1] and decodes them, on the CPU, one after the other.

    Args:
        sample_rate: In Hz.
        format: ``mp3``, ``ogg-vorbis`` or ``ogg-opus``.
        quality: In [0, 1]; 1 is the codec's best, 0 its smallest. At 16 kHz .5 is, for voiced
            sound, about 25 kbit/s of MP3, 34 of Vorbis and 120 of Opus.

    Raises:
        SettingError: A setting is outside its rule, or the codec does not take the sample rate.
        ServaxError: The libsndfile of this machine lacks the codec.
    """

    knowledge = "bpda"
    """A codec has no gradient: the backward pass takes the identity instead."""

    def __init__(self, sample_rate: int, format: str = "mp3", quality: float = 0.5) -> None:
        super().__init__()
        check_rate("sample_rate", sample_rate)
        if format not in FORMATS:
            raise SettingError.choice("format", format, FORMATS)
        self.format = FORMATS[format]
        rates = self.format.rates
        if rates is not None and sample_rate not in rates:
            expected = f"one that {format} takes ({', '.join(map(str, rates))} Hz)"
            raise SettingError("sample_rate", sample_rate, expected)
        if not 0 <= quality <= 1:
            raise SettingError("quality", quality, "a number in [0, 1]")
        if self.format.subtype not in soundfile.available_subtypes(self.format.container):
            raise ServaxError(
                f"libsndfile {soundfile.__libsndfile_version__} has no {format}; install version "
                "1.1 or later, or take soundfile's wheel, which brings one."
            )
        self.sample_rate = int(sample_rate)
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Return decoded x (B, T), with the identity as its gradient.

        Raises:
            SettingError: A sample is not finite: encoders may end the process over it.
        """
        check_waveforms(x)
        sound = x.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(sound).all():
            raise SettingError("x", "not finite", "samples without NaN or infinity")
        decoded = np.stack([self._round_trip(clip) for clip in sound])
        passed = torch.from_numpy(decoded).to(x).clamp(-1.0, 1.0)
        # x - x.detach() is exactly zero, so the values are the codec's to the last bit.
        return passed + (x - x.detach())

    def _round_trip(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one clip (T,) as it comes back."""
        file = io.BytesIO()
        with soundfile.SoundFile(
            file,
            "w",
            samplerate=self.sample_rate,
            channels=1,
            format=self.format.container,
            subtype=self.format.subtype,
            compression_level=min(1.0 - self.quality, STRONGEST),
        ) as encoder:
            encoder.write(clip)
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
        fitted = np.zeros_like(clip)
        length = min(len(clip), len(decoded))
        fitted[:length] = decoded[:length]
        return fitted
