"""Cuts sound of any length into windows, purifies each and joins what comes out.

Each window is purified on its own, as the clips that a purifier was trained on, and gives the part
of it that lies far enough from its ends. Neighbours fade into each other. What is kept at any
moment is one window, however long the sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servax.errors import ServaxError, SettingError, ShapeError
from servax.kinds import check_types
from servax.runtime.samples import Samples, as_samples

NOTHING: Samples = np.zeros(0, dtype=np.float32)
LOUDEST = 65_536.0
"""Largest sample, as `servax.audio` reads it; full scale is 1. Squares of far more overflow."""


@dataclass(frozen=True)
class Windows:
    """How a long sound is cut, in samples."""

    length: int
    """Of a window."""
    hop: int
    """From the end of a window to that of the next."""
    look_ahead: int
    """At the end of a window, heard but not given: the next one knows it better."""
    fade: int
    """How long two windows fade into each other."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("length", 1), ("hop", 1), ("look_ahead", 0), ("fade", 0)):
            if getattr(self, name) < least:
                raise SettingError(name, getattr(self, name), f"at least {least} samples")
        if self.hop + self.look_ahead > self.length:
            raise SettingError(
                "hop + look_ahead", self.hop + self.look_ahead, f"at most {self.length} samples"
            )
        if self.fade > min(self.hop, self.look_ahead):
            raise SettingError("fade", self.fade, "at most hop and look_ahead")

    @property
    def latency(self) -> int:
        """Largest distance in samples from hearing a sample to giving it, in a stream."""
        return self.hop + self.look_ahead

    @property
    def ramp(self) -> Samples:
        """Weights (fade,) of the later of two windows where they overlap."""
        return (np.arange(1, self.fade + 1) / (self.fade + 1)).astype(np.float32)

    def weighted(self, total: int) -> Iterator[tuple[int, int, Samples]]:
        """Yield start, stop and weights (stop - start,) of the windows of a sound.

        Weights of all windows add up to 1 at each sample; a sound no longer than a window is one.
        """
        given, stop = 0, min(self.length, total)
        while True:
            start = max(0, stop - self.length)
            weights = np.zeros(stop - start, dtype=np.float32)
            weights[given - start :] = 1.0
            if given:
                weights[given - start : given - start + self.fade] = self.ramp
            if stop == total:
                yield start, stop, weights
                return
            given = stop - self.look_ahead
            weights[given - start :] = 0.0
            weights[given - start : given - start + self.fade] = 1.0 - self.ramp
            yield start, stop, weights
            stop = min(stop + self.hop, total)


class Stream:
    """Takes chunks of any size and gives purified ones.

    Args:
        clip: Maps one window (T,) to its purified samples (T,).
        windows: How the sound is cut.
        live: Whether the first windows are short, so that the latency holds from the beginning;
            else nothing is given before a whole window was heard, which knows more.
    """

    def __init__(
        self, clip: Callable[[Samples], Samples], windows: Windows, *, live: bool = True
    ) -> None:
        self.windows = windows
        self._clip = clip
        self._next = windows.latency if live else windows.length
        self._kept, self._start = NOTHING, 0
        """The last samples heard, and where in the sound they begin."""
        self._given = 0
        self._last, self._last_start = NOTHING, 0
        """What came out of the last window, and where in the sound it begins."""
        self._finished = False

    @property
    def heard(self) -> int:
        """How many samples were taken."""
        return self._start + len(self._kept)

    def feed(self, chunk: NDArray[np.floating]) -> Samples:
        """Take a chunk (T,) of any length and return the samples that are ready, perhaps none.

        Raises:
            ServaxError: The stream is finished.
            ShapeError: `chunk` is not (T,).
            SettingError: A sample is not finite, or beyond `LOUDEST`.
        """
        self._refuse_when_finished()
        samples = as_samples("chunk", chunk)
        if samples.ndim != 1:
            raise ShapeError("chunk", samples.shape, "(T,) mono samples")
        check_samples("chunk", samples)
        self._kept = np.concatenate([self._kept, samples])
        ready = []
        while self._next <= self.heard:
            ready.append(self._window(self._next, self._next - self.windows.look_ahead))
            self._next += self.windows.hop
        self._forget()
        return np.concatenate([NOTHING, *ready])

    def finish(self) -> Samples:
        """Return the rest; the stream is over.

        Raises:
            ServaxError: The stream is finished already.
        """
        self._refuse_when_finished()
        self._finished = True
        if self._last_start + len(self._last) == self.heard:
            return self._last[self._given - self._last_start :]
        return self._window(self.heard, self.heard)

    def _window(self, stop: int, until: int) -> Samples:
        """Purify the window that ends at `stop` and return its samples up to `until`."""
        start = max(0, stop - self.windows.length)
        purified = self._clip(self._kept[start - self._start : stop - self._start])
        ready = purified[self._given - start : until - start].copy()
        if self._given:
            first = self._given - self._last_start
            before, ramp = self._last[first : first + self.windows.fade], self.windows.ramp
            ready[: len(ramp)] = before * (1.0 - ramp) + ready[: len(ramp)] * ramp
        self._last, self._last_start = purified, start
        self._given = until
        return ready

    def _forget(self) -> None:
        first = max(self._start, self.heard - self.windows.length)
        self._kept, self._start = self._kept[first - self._start :].copy(), first

    def _refuse_when_finished(self) -> None:
        if self._finished:
            raise ServaxError("this stream is finished: begin another for another sound.")


def check_samples(name: str, samples: Samples) -> None:
    """Refuse samples (T,) of which some are no sound.

    Raises:
        SettingError: A sample is not finite, or beyond `LOUDEST`.
    """
    if not np.isfinite(samples).all():
        raise SettingError(name, "not finite", "samples without NaN or infinity")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > LOUDEST:
        raise SettingError(
            f"the loudest sample of {name}", peak, f"at most {LOUDEST:g}; full scale is 1"
        )
