"""An exported purifier in front of a model, with NumPy and onnxruntime alone.

The same steps as `servax.purifier`, whose result it gives to about 1e-4 of full scale; sound of
another rate than the front-end's also needs soxr.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servax.errors import CheckpointError, SettingError, ShapeError
from servax.kinds import check_kind, typed
from servax.runtime.extras import load_extra
from servax.runtime.heard import in_kind
from servax.runtime.rules import (
    CORRECTIONS,
    HOP_SECONDS,
    LOOK_AHEAD_SECONDS,
    at_level_of,
    check_rate,
    live_windows,
    whole_windows,
)
from servax.runtime.samples import as_floats
from servax.runtime.session import file_of, open_session
from servax.runtime.settings import (
    PURIFIER,
    FrontEndSettings,
    Scale,
    read_front_end,
    read_scale,
)
from servax.runtime.spectra import Array, LogMel
from servax.runtime.windows import Stream


class Purifier:
    """Maps log-Mel on [0, 1] to cleaned log-Mel, and sound to cleaned sound.

    Args:
        session: Of onnxruntime, from (B, 1, M, F) to the same shape.
        front_end: The front-end it was trained on.
        scale: The scale it was trained on.

    Example:
        >>> purifier = Purifier.load("purifier.onnx")  # doctest: +SKIP
        >>> cleaned = purifier.purify(waveform, sample_rate=16_000)  # doctest: +SKIP
    """

    def __init__(self, session: Any, front_end: FrontEndSettings, scale: Scale) -> None:
        check_kind("front_end", front_end, FrontEndSettings)
        check_kind("scale", scale, Scale)
        if not callable(getattr(session, "get_inputs", None)):
            raise SettingError(
                "session", type(session).__name__, "one of onnxruntime; Purifier.load opens a file"
            )
        self.front_end, self.scale = front_end, scale
        self._session, self._input = session, session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name
        self._logmel = LogMel(front_end.logmel)

    @classmethod
    @typed
    def load(cls, where: str | Path, *, threads: int | None = None) -> Purifier:
        """Return the purifier in a file of ``servax export``.

        Args:
            where: The file, or a folder in which it is the only ONNX file.
            threads: Of onnxruntime; default as many as there are cores.

        Raises:
            CheckpointError: There is no such file, or it holds no purifier of ``servax export``.
            SettingError: `where` is no path, or `threads` no whole number of at least 1.
            ServaxError: onnxruntime is not installed.
        """
        path = file_of(Path(where))
        session = open_session(path, threads=threads)
        said = session.get_modelmeta().custom_metadata_map
        if said.get("role") != PURIFIER:
            held = f"a {said['role']}" if "role" in said else "no network of servax export"
            raise CheckpointError(
                path, f"holds {held}, expected a purifier (servax export PURIFIER -o {path.name})"
            )
        try:
            front_end = read_front_end(said)
            scale = read_scale(said, front_end.logmel.mels)
        except SettingError as error:
            raise CheckpointError(path, f"has metadata that cannot be used: {error}") from None
        return cls(session, front_end, scale)

    def __call__(self, x: NDArray[np.floating]) -> Array:
        """Return purified log-Mel (B, 1, M, F) of log-Mel (B, 1, M, F) on [0, 1].

        Raises:
            ShapeError: `x` is of another shape.
            SettingError: `x` holds no floating-point numbers.
        """
        mels = self.front_end.logmel.mels
        given = np.ascontiguousarray(as_floats("x", x))
        if given.ndim != 4 or given.shape[1:3] != (1, mels) or given.size == 0:
            raise ShapeError("x", given.shape, f"(B, 1, {mels}, F) with B and F of at least 1")
        purified: Array = self._session.run([self._output], {self._input: given})[0]
        return purified

    def purify(self, sound: Any, sample_rate: int | None = None) -> Any:
        """Return purified sound of the same form, length, rate and level, within full scale.

        Args:
            sound: As `servax.Purifier.purify` takes it, but for files: this reads none.
            sample_rate: In Hz, said by whoever hands in samples; one that is not the front-end's
                needs soxr.

        Raises:
            ShapeError: `sound` is not (..., T) or is too short.
            SettingError: `sound` is none, a sample is not finite, or `sample_rate` is missing or
                outside its rule.
            ServaxError: soxr is needed and not installed.
        """
        return in_kind(sound, sample_rate, self._whole, _no_file)

    def _whole(self, original: Array, sample_rate: int) -> Array:
        """Return one sound (T,) purified."""
        windows = whole_windows(self._longest(sample_rate), sample_rate)
        stream = Stream(self._clip_at(sample_rate), windows, live=False)
        return np.concatenate([stream.feed(original), stream.finish()])

    def stream(
        self,
        sample_rate: int,
        *,
        hop_seconds: float = HOP_SECONDS,
        look_ahead_seconds: float = LOOK_AHEAD_SECONDS,
    ) -> Stream:
        """Return a stream that takes chunks of sound (`feed`, `finish`) and gives purified ones.

        Args:
            sample_rate: Of the chunks, in Hz.
            hop_seconds: From one pass of the purifier to the next.
            look_ahead_seconds: Heard behind a sample before it is given; with `hop_seconds` it is
                the latency.

        Raises:
            SettingError: A rate or a time is outside its rule.
            ServaxError: soxr is needed and not installed.
        """
        check_rate(sample_rate)
        windows = live_windows(
            self._longest(sample_rate), sample_rate, hop_seconds, look_ahead_seconds
        )
        return Stream(self._clip_at(sample_rate), windows)

    def _longest(self, sample_rate: int) -> int:
        """Return how many samples at a rate are heard at once."""
        s = self.front_end
        return int((s.frames - 1) * (s.logmel.hop_samples / s.logmel.sample_rate) * sample_rate)

    def _clip_at(self, sample_rate: int) -> functools.partial[Array]:
        rate, soxr = self.front_end.logmel.sample_rate, None
        if sample_rate != rate:
            what = f"sound of {sample_rate} Hz (the purifier hears {rate} Hz)"
            soxr = load_extra("soxr", what=what)
        return functools.partial(self._clip, sample_rate=sample_rate, soxr=soxr)

    def _clip(self, original: Array, *, sample_rate: int, soxr: Any) -> Array:
        """Return one window (T,) purified; only the difference is brought back to its rate."""
        rate = self.front_end.logmel.sample_rate
        sound = original if soxr is None else soxr.resample(original, sample_rate, rate, "HQ")
        difference = self._change(sound) - sound
        if soxr is not None:
            difference = soxr.resample(difference, rate, sample_rate, "HQ")
        result = original.copy()
        length = min(len(original), len(difference))
        result[:length] += difference[:length]
        return at_level_of(result, original)

    def _change(self, sound: Array) -> Array:
        """Return sound (T,) of the front-end's rate as its log-Mel changes, corrected as told."""
        logmel, scale, gain = self._logmel, self.scale, self._gain(sound)
        x = scale(logmel(gain * sound))  # (M, F)
        wanted = scale.inverse(self(self._fitted(x)[None, None])[0, 0, :, : x.shape[1]])
        change = wanted - scale.inverse(x)
        changed, unit = logmel.changing(sound), logmel.settings.db_per_unit
        made = changed(unit * change)
        for _ in range(CORRECTIONS):
            change = change + wanted - scale.inverse(scale(logmel(gain * made)))
            made = changed(unit * change)
        return made

    def _gain(self, sound: Array) -> np.float32:
        """Return what brings a sound (T,) to the level of the training."""
        s = self.front_end
        if s.level_dbfs is None:
            return np.float32(1.0)
        rms = max(float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))), s.silence_rms)
        return np.float32(10.0 ** (s.level_dbfs / 20.0) / rms)

    def _fitted(self, x: Array) -> Array:
        """Return the middle of x (M, F), or x repeated, with as many frames as in training."""
        frames, have = self.front_end.frames, x.shape[1]
        if have >= frames:
            start = (have - frames) // 2
            return x[:, start : start + frames]
        return np.tile(x, -(-frames // have))[:, :frames]


def _no_file(given: str | Path | bytes) -> tuple[Array, int]:
    """Refuse a file: what reads sound is not among the two packages that this needs."""
    said = "bytes" if isinstance(given, bytes) else str(given)
    raise SettingError(
        "waveform", said, "samples with their sample_rate: servax.Purifier reads files, this not"
    )
