"""The mask begins as Wiener's filter, hears as little of what comes as it says, and is a gain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from noise_cleaners import Mask, NoiseThenGain, WienerGains, stft_loss
from scipy.signal import stft
from torch import Tensor, nn

RATE = 16_000
AHEAD = 11
"""Frames of what comes that a gain may depend on."""


def sound(seconds: float = 0.5) -> Tensor:
    return 0.05 * torch.randn(1, int(seconds * RATE), generator=torch.Generator().manual_seed(0))


def cleaned(gains: nn.Module | None, x: Tensor, snr_db: float = 20.0) -> Tensor:
    return NoiseThenGain(snr_db, gains, torch.Generator().manual_seed(1))(x)


def stirred() -> Mask:
    mask = Mask().requires_grad_(False)
    torch.nn.init.normal_(mask.last.weight, std=0.3, generator=torch.Generator().manual_seed(2))
    return mask


@pytest.mark.parametrize("snr_db", [20.0, 15.0])
def test_the_noise_has_the_ratio_that_was_asked_for(snr_db: float):
    x = sound(4.0)
    noise = cleaned(None, x, snr_db) - x
    assert 20 * float(torch.log10(x.norm() / noise.norm())) == pytest.approx(snr_db, abs=0.1)


def test_an_untrained_mask_is_wiener_s_filter():
    x = sound()
    assert torch.allclose(cleaned(Mask(), x), cleaned(WienerGains(), x), atol=1e-6)


def test_a_mask_is_a_gain_whatever_it_learned():
    gains = stirred()(torch.rand(2, 257, 20, generator=torch.Generator().manual_seed(3)) * 9)
    assert gains.shape == (2, 257, 20)
    assert 0 <= float(gains.min()) < float(gains.max()) <= 1


def test_what_comes_later_than_it_looks_ahead_changes_nothing():
    posterior = torch.rand(1, 257, 60, generator=torch.Generator().manual_seed(4)) * 9
    later = posterior.clone()
    later[..., 40:] *= 5
    mask = stirred()
    unchanged = (mask(posterior) == mask(later)).all(dim=1)[0]
    assert unchanged[: 40 - AHEAD].all()
    assert not unchanged[40 - AHEAD]


def test_the_stft_loss_is_that_of_its_paper():
    x, y = sound(), 0.8 * sound().roll(7, 1)
    total = 0.0
    for window in (256, 512, 1024):
        old, new = (
            np.abs(
                stft(
                    each[0].double().numpy(),
                    window="hann",
                    nperseg=window,
                    noverlap=window - window // 4,
                    boundary="even",
                    padded=False,
                )[2]
            )
            * np.hanning(window + 1)[:-1].sum()
            for each in (x, y)
        )
        total += np.linalg.norm(new - old) / np.linalg.norm(old)
        total += np.abs(np.log(new / old)).mean()
    assert float(stft_loss(x, y)) == pytest.approx(total / 3, rel=1e-3)
