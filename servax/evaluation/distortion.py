"""How far an input was moved, per utterance, and whether it is still the same speech.

Inputs are waveforms (B, T), for which a signal-to-noise ratio is what a listener knows, or log-Mel
(B, 1, M, F) on [0, 1], for which it is a mere number and a change in dB says more.

A purifier that replaces each clip by another one of the class it hears wins every table of right
answers, but is no purifier. `MEASURES` of sound catch it: what comes out is not what went in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servax.errors import ShapeError
from servax.features import Scaling
from servax.runtime.host import load_extra

EXTRA = "quality"
"""The extra of servax that brings what listens."""
HEARD_RATE = 16_000
"""Sample rate at which sounds are compared, in Hz: that of wide-band PESQ and of DNSMOS."""
WINDOW, HOP = 512, 256
"""Window and step of the log-spectral distance in samples: 32 and 16 ms."""
DNSMOS_SAMPLES = 144_160
"""What DNSMOS hears: 9.01 s."""
SPEECH_DB, FLOOR_DB = 40.0, 80.0
"""Frames so far below the loudest are no speech (as in STOI), and cells are floored there."""
ANOTHER = "another clip"
"""What stands for a purifier that replaces each clip by one of its class from another speaker."""
Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """What a sound is worth beside the one that went in."""

    title: str
    """How tables call it."""
    unit: str
    better: Literal["higher", "lower"]
    of: Callable[[Samples, Samples], float]
    """From the clean sound (T,) and the changed one (T,), on [-1, 1] at `HEARD_RATE`; ``nan`` where
    it cannot be told."""
    packages: tuple[str, ...] = ()
    """What it needs of the extra ``quality``."""


def _snr(clean: Samples, found: Samples) -> float:
    pair = torch.from_numpy(clean)[None], torch.from_numpy(found)[None]
    return float(signal_to_noise_ratio(*pair))


def _log_spectral_distance(clean: Samples, found: Samples) -> float:
    """Mean over frames of the root mean square over bins of the difference in dB.

    Gray & Markel, "Distance measures for speech processing", IEEE Trans. ASSP 24 (1976), eq. 3, on
    the frames of the clean sound that carry speech.
    """
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    powers = torch.stack([torch.from_numpy(clean), torch.from_numpy(found)])
    powers = powers.unfold(1, WINDOW, HOP).mul(window)  # (2, frames, WINDOW)
    powers = torch.fft.rfft(powers).abs().square()  # (2, frames, WINDOW / 2 + 1)
    loud = powers[0].sum(dim=1)
    speech = loud > loud.max() * 10 ** (-SPEECH_DB / 10)
    db = 10 * powers.clamp(min=float(powers[0].max()) * 10 ** (-FLOOR_DB / 10)).log10()
    return float((db[0] - db[1])[speech].square().mean(dim=1).sqrt().mean())


def _pesq(clean: Samples, found: Samples) -> float:
    """Wide-band PESQ, ITU-T P.862.2: 1 to 4.64."""
    pesq = load_extra("pesq", extra=EXTRA, what="PESQ")
    if not (clean.any() and found.any()):
        return float("nan")
    try:
        return float(pesq.pesq(HEARD_RATE, clean, found, "wb"))
    except pesq.PesqError:  # no speech in it, or too short
        return float("nan")


def _stoi(clean: Samples, found: Samples) -> float:
    """Short-time objective intelligibility, Taal et al., IEEE Trans. ASLP 19 (2011)."""
    pystoi = load_extra("pystoi", extra=EXTRA, what="STOI")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(clean, found, HEARD_RATE))
        except RuntimeWarning:  # too little speech in it
            return float("nan")


def _dnsmos(clean: Samples, found: Samples) -> float:
    """Overall quality by DNSMOS P.835 (Reddy et al., ICASSP 2022), without a reference: 1 to 5.

    Of the first 9.01 s, a shorter sound repeated; of what is longer the package's own function
    takes the mean over windows that begin a second apart.
    """
    heard = np.resize(found.clip(-1.0, 1.0), DNSMOS_SAMPLES).astype(np.float32)
    _, _, raw = _dnsmos_network().run(None, {"input_1": heard[None]})[0][0]
    return float(-0.06766283 * raw**2 + 1.11546468 * raw + 0.04602535)


@cache
def _dnsmos_network() -> Any:
    """Return the network that the package carries, on one thread."""
    runtime = load_extra("onnxruntime", extra=EXTRA, what="DNSMOS")
    package = load_extra("speechmos", extra=EXTRA, what="DNSMOS")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    file = Path(package.__file__).with_name("dnsmos_models") / "sig_bak_ovr.onnx"
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


MEASURES: Mapping[str, Measure] = {
    "snr_db": Measure("SNR", "dB", "higher", _snr),
    "log_spectral_distance_db": Measure(
        "log-spectral distance", "dB", "lower", _log_spectral_distance
    ),
    "pesq": Measure("PESQ", "MOS, 1 to 4.6", "higher", _pesq, ("pesq",)),
    "stoi": Measure("STOI", "0 to 1", "higher", _stoi, ("pystoi",)),
    "dnsmos": Measure("DNSMOS", "MOS, 1 to 5", "higher", _dnsmos, ("speechmos", "onnxruntime")),
}
"""What is measured on sound, by the name of a column."""


def available() -> tuple[str, ...]:
    """Return the names of those `MEASURES` whose packages are there."""
    return tuple(name for name, each in MEASURES.items() if all(map(find_spec, each.packages)))


def measured(
    x: Tensor, moved: Tensor, sample_rate: int, names: tuple[str, ...]
) -> Iterator[dict[str, float]]:
    """Yield for each utterance what has become of its sound, by the name of the measure.

    Args:
        x: Clean waveforms (B, T) on [-1, 1].
        moved: The same after a change.
        sample_rate: Theirs, in Hz.
        names: Of the `MEASURES`.

    Raises:
        ShapeError: The shapes differ, or there are no utterances.
        ServaxError: A package of the extra ``quality`` is missing.
    """
    check_pair(x, moved)
    for pair in zip(x, moved, strict=True):
        clean, found = (_at_heard_rate(each, sample_rate) for each in pair)
        yield {name: MEASURES[name].of(clean, found) for name in names}


def _at_heard_rate(waveform: Tensor, sample_rate: int) -> Samples:
    sound: Samples = waveform.detach().cpu().double().numpy()
    if sample_rate == HEARD_RATE:
        return sound
    resampled: Samples = load_extra("soxr", what="a measure").resample(
        sound, sample_rate, HEARD_RATE
    )
    return resampled


def words_understood(stoi: float) -> float:
    """Return the share of words that listeners understand at a STOI: Taal et al. 2011, eq. 8.

    The curve is theirs for the IEEE sentences, 1 / (1 + exp(-17.4906 d + 9.6921)).
    """
    return 1.0 / (1.0 + float(np.exp(-17.4906 * stoi + 9.6921)))


def signal_to_noise_ratio(x: Tensor, moved: Tensor) -> Tensor:
    """Return 10 log10(|x|² / |moved - x|²) of each utterance in dB, (B,) float64.

    Infinite where nothing moved, minus infinity where silence did.

    Args:
        x: Clean inputs (B, ...).
        moved: The same after a change, shape of `x`.

    Raises:
        ShapeError: The shapes differ, or there are no utterances.
    """
    check_pair(x, moved)
    clean = x.double()
    signal, noise = (
        each.square().flatten(1).sum(dim=1) for each in (clean, moved.double() - clean)
    )
    ratio = 10.0 * torch.log10(signal / noise)
    return torch.where(noise == 0, torch.full_like(ratio, torch.inf), ratio)


def largest_change_db(x: Tensor, moved: Tensor, scale: Scaling) -> Tensor:
    """Return the largest change of a cell of each log-Mel in dB, (B,).

    Args:
        x: Clean log-Mel (B, 1, M, F) on [0, 1].
        moved: The same after a change.
        scale: What mapped dB to [0, 1].

    Raises:
        ShapeError: The shapes differ, or there are no utterances.
    """
    check_pair(x, moved)
    change = scale.inverse(moved.double()) - scale.inverse(x.double())
    return change.abs().flatten(1).amax(dim=1)


def mean_change_db(x: Tensor, moved: Tensor, scale: Scaling) -> Tensor:
    """Return the mean absolute change of a cell of each log-Mel in dB, (B,); as the largest."""
    check_pair(x, moved)
    change = scale.inverse(moved.double()) - scale.inverse(x.double())
    return change.abs().flatten(1).mean(dim=1)


def check_pair(x: Tensor, moved: Tensor) -> None:
    """Refuse inputs that do not belong together."""
    if x.ndim < 2 or x.numel() == 0:
        raise ShapeError("x", x.shape, "(B, ...) with at least one element")
    if moved.shape != x.shape:
        raise ShapeError("moved", moved.shape, f"{tuple(x.shape)}, the shape of x")
