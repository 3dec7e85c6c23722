"""Input transforms: the controls that a trained purifier has to beat.

Those of log-Mel map (B, 1, M, F) on [0, 1] to the same, those of waveforms (B, T) on [-1, 1],
without delay. Each says how gradients pass it: filters, noise and masks have exact ones; rounding
and codecs have none, so the identity stands in their place in the backward pass (BPDA, Athalye et
al. 2018), and attacks through them are labelled ``bpda``.

`LowPass` and `Resample` cut away the band where speech has little and attacks have room; beyond
both ends of a clip is silence. `Codec` throws away what cannot be heard, and attacks with it, after
Das et al. 2018 (ADAGIO): libsndfile encodes and decodes in memory, and itself removes the delay of
each codec.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv1d, pad

from servax.errors import ServaxError, SettingError, ShapeError
from servax.features import SpecAugment
from servax.kinds import COUNT, Choice, Rule, typed
from servax.perturbation import straight_through

LARGEST_RATIO = 2_000
"""Largest term of a reduced ratio of rates: there is one filter for each of so many phases."""
SHARE = Rule("a number in [0, 1]", lambda v: 0 <= v <= 1)
RATE = Rule("a whole number of at least 1000 Hz", lambda v: 1_000 <= v < math.inf and v == int(v))


class Transform(nn.Module, ABC):
    """Maps inputs to inputs of the same shape, as `changed` says."""

    dimensions = 4
    takes = "log-Mel (B, 1, M, F)"
    knowledge = "adaptive"
    """What an attack through it knows: exact gradients, per draw of a random one; or ``bpda``."""

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return changed inputs, with the gradient of the change or, under ``bpda``, the identity.

        Raises:
            ShapeError: `x` is not what the transform takes.
        """
        if x.ndim != self.dimensions:
            raise ShapeError("x", x.shape, self.takes)
        if self.knowledge == "adaptive":
            return self.changed(x)
        return straight_through(x, self.changed(x.detach()))

    @abstractmethod
    def changed(self, x: Tensor) -> Tensor:
        """Return changed inputs."""


class GaussianNoise(Transform):
    """Adds white noise, then clamps to [0, 1].

    Args:
        standard_deviation: Of the noise, on the [0, 1] scale (.02 is 1.6 dB).
        generator: Draws the noise (on the CPU); each call draws anew.
    """

    @typed
    def __init__(self, standard_deviation: float, generator: torch.Generator) -> None:
        super().__init__()
        rule = Rule("a number in (0, 1]", lambda v: 0 < v <= 1)
        rule.check("standard_deviation", standard_deviation)
        self.standard_deviation = standard_deviation
        self.generator = generator

    def changed(self, x: Tensor) -> Tensor:
        """Return noisy x."""
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype).to(x.device)
        return (x + self.standard_deviation * noise).clamp(0.0, 1.0)


class Filter(Transform):
    """Replaces each element by a mean of its neighbourhood; edges repeat their nearest value.

    Args:
        size: Side of the square neighbourhood in Mel bins and frames, odd.
    """

    @typed
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        Rule("an odd whole number", lambda v: v >= 1 and v % 2 == 1).check("size", size)
        self.size = size

    def padded(self, x: Tensor) -> Tensor:
        """Return x with half a neighbourhood around it, (B, 1, M + size - 1, F + size - 1)."""
        return pad(x, (self.size // 2,) * 4, mode="replicate")


class MeanFilter(Filter):
    """Replaces each element by the mean of its neighbourhood."""

    def changed(self, x: Tensor) -> Tensor:
        """Return smoothed x."""
        return avg_pool2d(self.padded(x), self.size, stride=1)


class MedianFilter(Filter):
    """Replaces each element by its neighbourhood's median (feature squeezing, Xu et al. 2018).

    The gradient is that of the element which is the median.
    """

    def changed(self, x: Tensor) -> Tensor:
        """Return x without its outliers."""
        windows = self.padded(x).unfold(2, self.size, 1).unfold(3, self.size, 1)
        return windows.flatten(-2).median(-1).values  # of (B, 1, M, F, size * size)


class SpectrogramMasking(Transform):
    """Hides random bands of Mel bins and of frames: SpecAugment's masks, but at inference.

    Args:
        mels: Widest band of Mel bins; 0 hides none.
        frames: Widest band of frames; 0 hides none.
        generator: Draws widths and places (on the CPU), anew for each utterance and each call.
        fill: What stands in a hidden element, on the [0, 1] scale; 0 is silence.
        bands: Number of bands of each kind.
    """

    @typed
    def __init__(
        self,
        mels: int,
        frames: int,
        generator: torch.Generator,
        *,
        fill: float = 0.0,
        bands: int = 1,
    ) -> None:
        super().__init__()
        for name, width in (("mels", mels), ("frames", frames)):
            Rule("a whole number of at least 0", lambda v: v >= 0).check(name, width)
        if mels == frames == 0:
            raise SettingError("mels, frames", (0, 0), "at least one above 0, or nothing is hidden")
        SHARE.check("fill", fill)
        COUNT.check("bands", bands)
        self.masks = SpecAugment(
            time_masks=bands, time_width=frames, mel_masks=bands, mel_width=mels
        )
        self.fill = fill
        self.generator = generator

    def changed(self, x: Tensor) -> Tensor:
        """Return x with its hidden elements at the fill value."""
        hidden = self.masks.draw(x.shape, self.generator).to(x.device)
        return x.masked_fill(hidden, self.fill)


class Quantise(Transform):
    """Rounds to 2**bits levels on [0, 1] (feature squeezing, Xu et al. 2018).

    Args:
        bits: Bits per element, in [1, 16].
    """

    knowledge = "bpda"

    @typed
    def __init__(self, bits: int) -> None:
        super().__init__()
        Rule("a whole number in [1, 16]", lambda v: 1 <= v <= 16).check("bits", bits)
        self.bits = bits

    def changed(self, x: Tensor) -> Tensor:
        """Return rounded x."""
        levels = (1 << self.bits) - 1
        return torch.round(x * levels) / levels


class WaveformTransform(Transform):
    """Maps waveforms (B, T) on [-1, 1] to the same."""

    dimensions = 2
    takes = "waveforms (B, T)"


class WhiteNoise(WaveformTransform):
    """Adds white noise at a signal-to-noise ratio, each utterance's own, then clamps to [-1, 1].

    Args:
        snr_db: Mean power of the utterance over that of the noise, in dB.
        generator: Draws the noise (on the CPU); each call draws anew.
    """

    @typed
    def __init__(self, snr_db: float, generator: torch.Generator) -> None:
        super().__init__()
        Rule("a ratio in [-20, 100] dB", lambda v: -20 <= v <= 100).check("snr_db", snr_db)
        self.snr_db = snr_db
        self.generator = generator

    def changed(self, x: Tensor) -> Tensor:
        """Return noisy x (B, T)."""
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype).to(x.device)
        # The smallest number keeps the gradient of silence, which gets no noise, finite.
        power = x.square().mean(dim=1, keepdim=True) + torch.finfo(x.dtype).tiny
        return (x + power.sqrt() * 10 ** (-self.snr_db / 20) * noise).clamp(-1.0, 1.0)


class LowPass(WaveformTransform):
    """Removes what lies above a cutoff, by a linear-phase FIR filter (sinc, Hamming window).

    The gain is 1/2 at the cutoff and goes from 1 to 0 within 3.3 sample_rate / taps around it.

    Args:
        sample_rate: In Hz.
        cutoff: In Hz, below half the sample rate.
        taps: Length of the filter in samples, odd, so that nothing is delayed.
    """

    def __init__(self, sample_rate: int, cutoff: float, taps: int = 255) -> None:
        super().__init__()
        RATE.check("sample_rate", sample_rate)
        half = sample_rate / 2
        Rule(f"a frequency in (0, {half:g}) Hz", lambda v: 0 < v < half).check("cutoff", cutoff)
        Rule("an odd whole number of at least 3", lambda v: v >= 3 and v % 2 == 1).check(
            "taps", taps
        )
        time = torch.arange(taps, dtype=torch.float64) - taps // 2
        kernel = torch.sinc(2.0 * cutoff / sample_rate * time)
        kernel = kernel * torch.hamming_window(taps, periodic=False, dtype=torch.float64)
        self.kernel = kernel / kernel.sum()

    def changed(self, x: Tensor) -> Tensor:
        """Return filtered x (B, T)."""
        kernel = self.kernel.to(x.dtype).to(x.device)
        filtered = conv1d(x[:, None], kernel[None, None], padding=len(kernel) // 2)
        return filtered[:, 0].clamp(-1.0, 1.0)


class Resample(WaveformTransform):
    """Converts to a lower sample rate and back, which removes what the lower rate cannot hold.

    Band-limited interpolation with a windowed sinc in its polyphase form (Smith, "Digital Audio
    Resampling"), Hann window, as torchaudio's.

    Args:
        sample_rate: In Hz.
        down_to: The lower rate, in Hz.
        crossings: Zero crossings of the sinc on each side; more make a steeper edge.
        rolloff: Cutoff as a share of half the lower rate.
    """

    def __init__(
        self, sample_rate: int, down_to: int, *, crossings: int = 16, rolloff: float = 0.99
    ) -> None:
        super().__init__()
        RATE.check("sample_rate", sample_rate)
        RATE.check("down_to", down_to)
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
        COUNT.check("crossings", crossings)
        Rule("a share in (0, 1]", lambda v: 0 < v <= 1).check("rolloff", rolloff)
        self.high, self.low = int(sample_rate) // common, int(down_to) // common
        self.down = _kernels(self.high, self.low, crossings, rolloff)
        self.up = _kernels(self.low, self.high, crossings, rolloff)

    def changed(self, x: Tensor) -> Tensor:
        """Return x (B, T) as the lower rate can hold it."""
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


class ClipByClip(WaveformTransform):
    """Maps waveforms (B, T) on [-1, 1] to the same, on the CPU, one after the other.

    What does it has no gradient; the identity stands in for it (BPDA).
    """

    knowledge = "bpda"

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        RATE.check("sample_rate", sample_rate)
        self.sample_rate = int(sample_rate)

    def changed(self, x: Tensor) -> Tensor:
        """Return changed x (B, T).

        Raises:
            SettingError: A sample is not finite: encoders may end the process over it.
        """
        sound = x.to("cpu", torch.float32).numpy()
        if not np.isfinite(sound).all():
            raise SettingError("x", "not finite", "samples without NaN or infinity")
        changed = np.zeros_like(sound)
        for row, clip in zip(changed, sound, strict=True):
            found = self.clip_changed(clip)[: len(row)]
            row[: len(found)] = found
        return torch.from_numpy(changed).to(x).clamp(-1.0, 1.0)

    @abstractmethod
    def clip_changed(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one clip (T,) as it comes back; a longer one is cut, a shorter one filled."""


class Codec(ClipByClip):
    """Encodes waveforms (B, T) on [-1, 1] and decodes them.

    Args:
        sample_rate: In Hz.
        format: ``mp3``, ``ogg-vorbis`` or ``ogg-opus``.
        quality: In [0, 1]; 1 is the codec's best, 0 its smallest. At 16 kHz .5 is, for voiced
            sound, about 25 kbit/s of MP3, 34 of Vorbis and 120 of Opus.

    Raises:
        SettingError: A setting is outside its rule, or the codec does not take the sample rate.
        ServaxError: The libsndfile of this machine lacks the codec.
    """

    def __init__(self, sample_rate: int, format: str = "mp3", quality: float = 0.5) -> None:
        super().__init__(sample_rate)
        Choice(FORMATS).check("format", format)
        self.format = FORMATS[format]
        rates = self.format.rates
        if rates is not None and sample_rate not in rates:
            expected = f"one that {format} takes ({', '.join(map(str, rates))} Hz)"
            raise SettingError("sample_rate", sample_rate, expected)
        SHARE.check("quality", quality)
        if self.format.subtype not in soundfile.available_subtypes(self.format.container):
            raise ServaxError(
                f"libsndfile {soundfile.__libsndfile_version__} has no {format}; install version "
                "1.1 or later, or take soundfile's wheel, which brings one."
            )
        self.quality = quality

    def clip_changed(self, clip: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one clip (T,) as it comes back."""
        file = io.BytesIO()
        soundfile.write(
            file,
            clip,
            self.sample_rate,
            subtype=self.format.subtype,
            format=self.format.container,
            compression_level=min(1.0 - self.quality, STRONGEST),
        )
        file.seek(0)
        decoded: NDArray[np.float32] = soundfile.read(file, dtype="float32")[0]
        return decoded
