"""The way back to sound: a change of the log-Mel becomes a gain on the short-time spectrum.

The phase stays the original one, so a change of 0 dB gives the waveform back. Each Fourier bin gets
the mean change of the Mel filters that cover it, weighted by their height there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from servax.errors import ShapeError
from servax.features.logmel import LogMel

LARGEST_GAIN_DB = 20.0
"""A bin is raised or lowered by at most this much: more is reconstruction error, not cleaning."""
NEPERS_PER_DB = math.log(10.0) / 20.0
"""What one dB of power is in the logarithm of an amplitude."""


def apply_change(waveform: Tensor, change_db: Tensor, logmel: LogMel) -> Tensor:
    """Return waveforms whose log-Mel is changed by about `change_db`.

    Args:
        waveform: (B, T) samples.
        change_db: (B, 1, M, F) in dB of power, F = 1 + T // hop.
        logmel: The front-end that `change_db` was computed with.

    Returns:
        (B, T).

    Raises:
        ShapeError: `change_db` does not belong to `waveform`.
    """
    return Resynthesis(logmel).of(waveform)(change_db)


class Resynthesis(nn.Module):
    """The way back to sound of one front-end; what follows from its settings is computed once.

    Example:
        >>> changed = Resynthesis(logmel).of(waveform)  # doctest: +SKIP
        >>> louder, softer = changed(change_db), changed(-change_db)  # doctest: +SKIP
    """

    weights: Tensor

    def __init__(self, logmel: LogMel) -> None:
        super().__init__()
        self.logmel = logmel
        # (M, bins); follows from the settings, so it is not saved with weights.
        self.register_buffer("weights", bin_weights(logmel.filters).T.contiguous(), False)

    def of(self, waveform: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what maps changes to changed waveforms, as `apply_change`: one transform for all.

        Args:
            waveform: (B, T) samples.
        """
        s, length = self.logmel.settings, waveform.shape[-1]
        # Samples behind the last frame's centre lie under the edge of its window alone, and the
        # inverse divides by that edge: one more frame, of the reflected end, keeps clicks out.
        missing = -length % s.hop_samples
        whole = nn.functional.pad(waveform, (0, missing), mode="reflect")
        spectrum = self.logmel.frames_spectrum(whole)  # (B, F, bins)
        window, half = self.logmel.window, s.window_samples // 2
        weight = overlap_added(window.square().expand(1, spectrum.shape[1], -1), s.hop_samples)
        inside = slice(half, half + length)
        # Where windows leave a gap nothing is heard: torch.istft would refuse it.
        weight = weight[:, inside].clamp(min=torch.finfo(weight.dtype).tiny)

        def changed(change_db: Tensor) -> Tensor:
            expected = (len(waveform), 1, s.mels, 1 + length // s.hop_samples)
            if not torch.compiler.is_exporting() and tuple(change_db.shape) != expected:
                raise ShapeError("change_db", change_db.shape, f"{expected} for this waveform")
            gain = self._gain(change_db, spectrum.shape[1])
            frames = self.logmel.inverse_transform(spectrum * gain) * window
            return overlap_added(frames, s.hop_samples)[:, inside] / weight

        return changed

    def _gain(self, change_db: Tensor, count: int) -> Tensor:
        """Return the gain (B, `count`, bins) of each bin; beyond the last frame, the last one's."""
        frames = torch.matmul(change_db[:, 0].transpose(1, 2), self.weights)  # (B, F, bins)
        gain = torch.exp(frames.clamp(-LARGEST_GAIN_DB, LARGEST_GAIN_DB) * NEPERS_PER_DB)
        place = torch.arange(count, device=gain.device).clamp(max=gain.shape[1] - 1)
        return gain.index_select(1, place)


def overlap_added(frames: Tensor, hop: int) -> Tensor:
    """Return the sums (B, T) of frames (B, F, window) that begin `hop` samples after each other.

    What `torch.istft` does, in a sixth of its time: whole hops are added, not samples.
    """
    batch, count, window = frames.shape
    pieces = -(-window // hop)
    parts = nn.functional.pad(frames, (0, pieces * hop - window))
    parts = parts.reshape(batch, count, pieces, hop)
    total = nn.functional.pad(parts[:, :, 0], (0, 0, 0, pieces - 1))
    for number in range(1, pieces):
        total = total + nn.functional.pad(parts[:, :, number], (0, 0, number, pieces - 1 - number))
    return total.reshape(batch, -1)


def bin_weights(filters: Tensor) -> Tensor:
    """Return (bins, M) weights that sum to 1 for each Fourier bin.

    A bin that no filter covers (0 Hz and the upper edge) follows its nearest covered neighbour.
    """
    total = filters.sum(dim=1)
    covered = torch.nonzero(total > 0).squeeze(1)
    distance = (torch.arange(len(total))[:, None] - covered[None, :].cpu()).abs()
    nearest = covered[distance.argmin(dim=1).to(covered.device)]
    return filters[nearest] / total[nearest].unsqueeze(1)
