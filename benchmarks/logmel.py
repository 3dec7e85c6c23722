"""Log-Mel on [0, 1] of 1,000 clips: servax beside torchaudio and librosa.

All take the same RAVDESS recordings (about 3.7 s each) from memory and give log-Mel in dB mapped to
[0, 1] by the same affine map. torchaudio and librosa compute one clip after another on
``--threads`` threads, servax shares clips out among as many threads of one core each, as
`servax.features.extract` does. Nobody keeps what was computed: fresh memory would be timed.
torchaudio and servax compute in float32 with the same settings, and must agree to 1e-5 of the
power; librosa differs in its filters and is not compared.

    python benchmarks/logmel.py --threads 2
    python benchmarks/logmel.py --threads 1
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import log2
from typing import Any

import librosa
import numpy as np
import torch
from clips import RATE, load_torchaudio, waveforms
from floor import Work, measure_rates
from harness import Row, floor_told, parser, race, ratio, write
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from servax.features import LogMel, Scale, ScaleSettings
from servax.runtime.host import in_order

Samples = NDArray[np.float32]
Map = Callable[[Tensor], Tensor]
WINDOW, HOP, MELS = 512, 256, 64
TOP_DB, WINDOW_DB = 40.0, 80.0


def main() -> int:
    """Time the contenders; 0 when both targets are met."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--clips", type=int, default=1_000, help="how many recordings")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    sounds = waveforms(given.clips)
    contenders: dict[str, Callable[[], Iterable[Any]]] = {
        "servax": _shared(sounds, *_servax(), given.threads),
        "torchaudio": _each(sounds, *_torchaudio()),
        "librosa": lambda: map(_librosa, sounds),
    }
    agreement = _apart(*(list(contenders[name]()) for name in ("servax", "torchaudio")))
    with threadpool_limits(given.threads):  # those of NumPy's products, which librosa takes
        times = race(
            {name: partial(_dropped, run) for name, run in contenders.items()}, rounds=given.rounds
        )
    rates = measure_rates()
    told = floor_told(_work(sounds), rates, times["servax"].seconds.median)
    rows, met = [], []
    for name, target in (("torchaudio", 1.5), ("librosa", 5.0)):
        found = ratio(times[name], times["servax"])
        met.append(found.of_medians >= target)
        rows.append(
            Row(
                what=f"log-Mel and scale, {given.clips} clips of RAVDESS, threads: {given.threads}",
                against=name,
                target=f"≥ {target:g} ×",
                measured=str(found),
                met=met[-1],
                floor=told,
            )
        )
    write(
        f"logmel-{given.threads}",
        rows,
        times=times,
        rates=[rates],
        packages=["torchaudio", "librosa"],
        folder=given.results,
        largest_relative_difference_of_power=agreement,
    )
    return 0 if all(met) and agreement <= 1e-5 else 1


def _servax() -> tuple[Map, Map]:
    logmel, scale = LogMel.speech_16k(), Scale(ScaleSettings(TOP_DB, WINDOW_DB))
    return logmel, scale


def _torchaudio() -> tuple[Map, Map]:
    transforms = load_torchaudio().transforms
    mel = transforms.MelSpectrogram(RATE, n_fft=WINDOW, hop_length=HOP, n_mels=MELS)
    decibels = transforms.AmplitudeToDB("power")
    return lambda x: decibels(mel(x)), lambda db: ((db - TOP_DB) / WINDOW_DB + 1.0).clamp(0.0, 1.0)


def _dropped(run: Callable[[], Iterable[Any]]) -> None:
    """Compute everything and keep nothing, as who writes features to a file does."""
    deque(run(), maxlen=0)


def _each(sounds: Sequence[Samples], logmel: Map, scale: Map) -> Callable[[], Iterable[Tensor]]:
    tensors = [torch.from_numpy(sound).unsqueeze(0) for sound in sounds]

    @torch.inference_mode()
    def one(x: Tensor) -> Tensor:
        return scale(logmel(x))

    return lambda: map(one, tensors)


def _shared(
    sounds: Sequence[Samples], logmel: Map, scale: Map, threads: int
) -> Callable[[], Iterable[Tensor]]:
    tensors = [torch.from_numpy(sound).unsqueeze(0) for sound in sounds]

    @torch.inference_mode()
    def one(x: Tensor) -> Tensor:
        return scale(logmel(x))

    single = partial(torch.set_num_threads, 1)

    def run() -> Iterable[Tensor]:
        torch.set_num_threads(1)
        try:
            yield from in_order(one, tensors, threads=threads, begin=single)
        finally:
            torch.set_num_threads(threads)

    return run


def _librosa(sound: Samples) -> Samples:
    mel = librosa.feature.melspectrogram(
        y=sound, sr=RATE, n_fft=WINDOW, hop_length=HOP, n_mels=MELS, htk=True, norm=None
    )
    decibels = librosa.power_to_db(mel, top_db=None)
    return np.clip((decibels - TOP_DB) / WINDOW_DB + 1.0, 0.0, 1.0)


def _apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest relative difference of powers above the scale's window."""
    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = (x.double().squeeze() for x in (a, b))
        inside = (a > 0) & (a < 1)
        powers = [10.0 ** ((x[inside] - 1.0) * WINDOW_DB / 10.0) for x in (a, b)]
        if len(powers[0]):
            largest = max(largest, float((powers[0] / powers[1] - 1.0).abs().max()))
    return largest


def _work(sounds: Sequence[Samples]) -> Work:
    """Return the operations of a real transform and the dense filters, and bytes in and out."""
    frames = sum(1 + len(sound) // HOP for sound in sounds)
    transform = 2.5 * WINDOW * log2(WINDOW)
    filters = 2.0 * (WINDOW // 2 + 1) * MELS
    moved = sum(sound.nbytes for sound in sounds) + 4 * frames * MELS
    return Work(frames * (transform + filters), moved)


if __name__ == "__main__":
    sys.exit(main())
