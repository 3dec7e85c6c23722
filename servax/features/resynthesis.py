"""The way back to sound: a change of the log-Mel becomes a gain on the short-time spectrum.

The phase stays the original one, so a change of 0 dB gives the waveform back. Each Fourier bin gets
the mean change of the Mel filters that cover it, weighted by their height there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.errors import ShapeError
from servax.features.logmel import LogMel
from servax.runtime.rules import LARGEST_GAIN_DB


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
    s = logmel.settings
    expected = (len(waveform), 1, s.mels, 1 + waveform.shape[-1] // s.hop_samples)
    if tuple(change_db.shape) != expected:
        raise ShapeError("change_db", change_db.shape, f"{expected} for this waveform")
    change = torch.einsum("bm,nmf->nbf", bin_weights(logmel.filters), change_db[:, 0])
    gain = 10.0 ** (change.clamp(-LARGEST_GAIN_DB, LARGEST_GAIN_DB) / 20.0)
    # Samples behind the last frame's centre lie under the edge of its window alone, and the inverse
    # divides by that edge: one more frame, of the reflected end, keeps clicks out.
    missing = -waveform.shape[-1] % s.hop_samples
    if missing:
        gain = torch.cat([gain, gain[..., -1:]], dim=-1)
    whole = nn.functional.pad(waveform, (0, missing), mode="reflect")
    return torch.istft(
        logmel.spectrum(whole) * gain,
        s.window_samples,
        s.hop_samples,
        window=logmel.window,
        center=True,
        length=waveform.shape[-1],
    )


def bin_weights(filters: Tensor) -> Tensor:
    """Return (bins, M) weights that sum to 1 for each Fourier bin.

    A bin that no filter covers (0 Hz and the upper edge) follows its nearest covered neighbour.
    """
    total = filters.sum(dim=1)
    covered = torch.nonzero(total > 0).squeeze(1)
    distance = (torch.arange(len(total))[:, None] - covered[None, :].cpu()).abs()
    nearest = covered[distance.argmin(dim=1).to(covered.device)]
    return filters[nearest] / total[nearest].unsqueeze(1)
