"""The log-Mel spectrogram that Whisper hears, differentiable down to the waveform.

`transformers.WhisperFeatureExtractor` fills a clip with silence up to 30 s and computes 3,000
frames in NumPy. This computes the frames that the clip reaches, with the same values: periodic Hann
window of 400 samples, hop 160, power, Slaney filters of unit area, ``log10(max(m, 1e-10))``, at
least the clip's highest value less 8, ``(x + 4) / 4`` (Radford et al. 2023, `whisper/audio.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.errors import ShapeError
from servax.features.logmel import mel_filterbank
from servax.features.tensors import check_waveforms

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160
LONGEST = 30 * SAMPLE_RATE
"""Samples of the longest clip."""


class WhisperLogMel(nn.Module):
    """Turns waveforms (B, T) at 16 kHz into (B, M, F) with F = ceil(T / 160).

    Args:
        mels: Number of Mel bins: 80, of Whisper large-v3 128.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, mels: int = 80) -> None:
        super().__init__()
        filters = mel_filterbank(
            bins=WINDOW // 2 + 1,
            mels=mels,
            sample_rate=SAMPLE_RATE,
            f_min=0.0,
            f_max=SAMPLE_RATE / 2,
            scale="slaney",
            dtype=torch.float64,  # as transformers computes it
        )
        window = torch.hann_window(WINDOW, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", filters.float(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-Mel (B, M, F) of waveforms (B, T).

        Raises:
            ShapeError: They are not (B, T), empty, or longer than 30 s.
            SettingError: They are no floating-point tensor.
        """
        check_waveforms(waveform)
        length, half = waveform.shape[1], WINDOW // 2
        if not 1 <= length <= LONGEST:
            raise ShapeError("waveform", waveform.shape, f"(B, T) with T from 1 to {LONGEST}")
        reached = 1 + (length + half - 1) // HOP  # frames that hold a sample: the highest is there
        behind = (reached - 1) * HOP + half - length
        # In float64: float32 is off by 1e-5 in quiet bins beside loud ones.
        filled = nn.functional.pad(waveform.double(), (0, max(behind, WINDOW)))
        before = filled[:, 1 : half + 1].flip(1)
        whole = torch.cat([before, filled[:, : length + behind]], dim=1)
        frames = whole.unfold(1, WINDOW, HOP) * self.window  # (B, F', window)
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(dim=-1)
        levels = (power @ self.filters.double()).clamp(min=1e-10).log10()  # (B, F', M)
        levels = torch.maximum(levels, levels.amax(dim=(1, 2), keepdim=True) - 8.0)
        heard = levels[:, : -(-length // HOP)].transpose(1, 2)  # (B, M, F)
        return ((heard + 4.0) / 4.0).to(waveform.dtype)
