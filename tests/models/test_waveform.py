from __future__ import annotations

import torch
from torch import nn

from servax.features import FrontEnd, FrontEndSettings, Scale, ScaleSettings
from servax.models import VGG16, WaveformClassifier


def test_it_is_the_front_end_and_then_the_classifier():
    front_end = FrontEnd(FrontEndSettings(frames=40))
    scale = Scale(ScaleSettings(top_db=30.0))
    recogniser = VGG16(width=2).eval()
    classifier = WaveformClassifier(nn.Sequential(front_end, scale), recogniser)
    waveform = torch.randn(2, 6_000, generator=torch.Generator().manual_seed(0)) * 0.1
    logits = classifier(waveform)
    assert logits.shape == (2, 4)
    assert torch.equal(logits, recogniser(scale(front_end(waveform))))


def test_gradients_reach_the_waveform_and_are_exact():
    front_end = FrontEnd(FrontEndSettings(frames=4)).double()
    head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 4, 3)).double()
    classifier = WaveformClassifier(nn.Sequential(front_end, Scale(ScaleSettings(40.0))), head)
    draws = torch.Generator().manual_seed(0)
    waveform = torch.randn(1, 600, generator=draws, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(classifier(waveform)[0, 1], waveform)
    direction = torch.randn(1, 600, generator=draws, dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        rise = (
            classifier(waveform + step * direction)[0, 1]
            - classifier(waveform - step * direction)[0, 1]
        )
    torch.testing.assert_close((gradient * direction).sum(), rise / (2 * step), rtol=1e-5, atol=0)
