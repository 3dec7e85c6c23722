"""Cuts sound of any length into windows, purifies each and joins what comes out.

Each window is purified on its own, as the clips that a purifier was trained on, and gives the part
of it that lies far enough from its ends. Neighbours fade into each other; what comes of them stays
within full scale (`servax.runtime.limiter`). What is kept at any moment is one window, however long
the sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servax.errors import ServaxError, SettingError, ShapeError
from servax.kinds import check_types
from servax.runtime.limiter import Limited, Limiter
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
    """How far a sample is given behind what was heard, at least. The next window knows the end of
    a window better; of it the limiter hears `guard`."""
    fade: int
    """How long two windows fade into each other."""
    guard: int = 0
    """Look-ahead of the limiter, a part of `look_ahead`."""
    hold: int = 0
    """How long the gain of the limiter stays behind a peak."""

    def __post_init__(self) -> None:
        check_types(self)
        least_of = {"length": 1, "hop": 1, "look_ahead": 0, "fade": 0, "guard": 0, "hold": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise SettingError(name, getattr(self, name), f"at least {least} samples")
        if self.hop + self.look_ahead > self.length:
            raise SettingError(
                "hop + look_ahead", self.hop + self.look_ahead, f"at most {self.length} samples"
            )
        if self.fade > min(self.hop, self.unsure):
            raise SettingError("fade", self.fade, "at most hop, and look_ahead without guard")

    @property
    def latency(self) -> int:
        """Largest distance in samples from hearing a sample to giving it, in a stream."""
        return self.hop + self.look_ahead

    @property
    def unsure(self) -> int:
        """How many samples at the end of a window are left to the next one."""
        return self.look_ahead - self.guard

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
            given = stop - self.unsure
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
        self._limiter = Limiter(windows.guard, windows.hold)
        self._finished = False

    @property
    def limited(self) -> Limited:
        """How much was lowered in what was given so far, to stay within full scale."""
        return self._limiter.limited

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
            ready.append(self._window(self._next, self._next - self.windows.unsure))
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
            rest = self._within(self._last[self._given - self._last_start :], self._last_start)
        else:
            rest = self._window(self.heard, self.heard)
        return np.concatenate([rest, self._limiter.finish()])

    def _window(self, stop: int, until: int) -> Samples:
        """Purify the window that ends at `stop`, take it up to `until` and return what is ready."""
        start = max(0, stop - self.windows.length)
        purified = self._clip(self._kept[start - self._start : stop - self._start])
        ready = purified[self._given - start : until - start].copy()
        if self._given:
            first = self._given - self._last_start
            before, ramp = self._last[first : first + self.windows.fade], self.windows.ramp
            ready[: len(ramp)] = before * (1.0 - ramp) + ready[: len(ramp)] * ramp
        self._last, self._last_start = purified, start
        self._given = until
        return self._within(ready, start)

    def _within(self, ready: Samples, start: int) -> Samples:
        """Return what the limiter gives for samples of a window that begins at `start`."""
        heard = self._kept[start - self._start : start - self._start + len(self._last)]
        # Beyond full scale is what was so before: a sound of floats keeps its own peak.
        return self._limiter.feed(ready, max(1.0, float(np.abs(heard).max(initial=0.0))))

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
