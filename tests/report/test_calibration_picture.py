from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from servax.evaluation.calibration import summary
from servax.report import png, risk_curves

STEPS = (0.003, 0.005)


def made(radii: tuple[float, ...]) -> pd.DataFrame:
    ks = np.arange(1, 13)
    parts = [
        pd.DataFrame(
            {
                "step": step,
                "radius": radius,
                "k": ks,
                "risk": 1 - np.exp(-ks * step * 60),
                "right": 9,
            }
        )
        for step in STEPS
        for radius in radii
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("radii", [(0.02,), (0.015, 0.02, 0.03)])
def test_a_panel_for_each_radius_and_a_line_for_each_step(radii: tuple[float, ...]) -> None:
    frame = made(radii)
    pairs = summary(frame)
    figure = risk_curves(frame, pairs)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left").split(",")[0] for axes in shown] == [
        f"radius {radius:g}".replace("0.", ".") for radius in radii
    ]
    for axes, radius in zip(shown, radii, strict=True):
        for step in STEPS:
            label = f"step {step:g}".replace("0.", ".")
            (line,) = [line for line in axes.lines if line.get_label() == label]
            expected = frame[(frame["step"] == step) & (frame["radius"] == radius)]
            np.testing.assert_allclose(line.get_ydata(), 100 * expected["risk"])
    thick = [line for axes in shown for line in axes.lines if line.get_linewidth() > 2]
    assert len(thick) == 1
    assert png(figure)[:4] == b"\x89PNG"
