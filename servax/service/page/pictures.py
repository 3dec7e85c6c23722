"""Spectrograms of the three sounds: one colour scale, seconds and kilohertz."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servax.features import LogMelSettings
from servax.features.logmel import hz_to_mel
from servax.report.style import new_figure, png, tidy
from servax.service.page.showing import Samples

RANGE_DB = 70.0
"""From the loudest cell of all pictures down to black."""
TICKS_HZ = (0, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 24_000)
WIDTH_INCHES, HEIGHT_INCHES, DPI = 4.4, 2.9, 130


def pictures(logmels: tuple[Samples, ...], settings: LogMelSettings) -> tuple[bytes, ...]:
    """Return a PNG for each log-Mel (M, F), all on the colour scale of the loudest.

    Args:
        logmels: In the unit of the front-end (dB, or natural logarithm).
        settings: The front-end they come from.
    """
    decibels = [each * settings.db_per_unit for each in logmels]
    top = max(float(each.max()) for each in decibels)
    return tuple(png(_picture(each, settings, top), dpi=DPI) for each in decibels)


def _picture(decibels: Samples, settings: LogMelSettings, top: float) -> Figure:
    """Draw one (M, F) array in dB below `top`."""
    figure = new_figure(HEIGHT_INCHES, width_inches=WIDTH_INCHES)
    axes = figure.subplots()
    mels, frames = decibels.shape
    image = axes.imshow(
        decibels - top,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        vmin=-RANGE_DB,
        vmax=0.0,
        extent=(0, frames * settings.hop_seconds, 0, mels),
    )
    tidy(axes, x="time (s)", y="frequency (kHz)", grid=False)
    _kilohertz(axes, settings)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=22, extend="min")
    bar.set_label("dB below the loudest", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def _kilohertz(axes: Axes, settings: LogMelSettings) -> None:
    """Name frequencies where the Mel bins around them lie: bin k peaks at the k + 1st edge."""
    ticks = [hz for hz in TICKS_HZ if settings.f_min <= hz <= settings.f_max]
    axes.set_yticks(
        [bin_at(hz, settings) for hz in ticks],
        [f"{hz / 1000:g}" for hz in ticks],
    )
    axes.set_ylim(0, settings.mels)


def bin_at(hz: float, settings: LogMelSettings) -> float:
    """Return where a frequency lies on an axis on which bin k reaches from k to k + 1."""
    low, high, here = (
        hz_to_mel(each, scale=settings.mel_scale) for each in (settings.f_min, settings.f_max, hz)
    )
    edges = (here - low) / (high - low) * (settings.mels + 1)
    # The first filter peaks at edge 1 and is drawn around .5.
    return float(np.clip(edges - 0.5, 0.0, settings.mels))


def decibels_of(ratio: float) -> str:
    """Return a ratio in dB as people read it."""
    return "no change" if math.isinf(ratio) else f"{ratio:.1f} dB"
