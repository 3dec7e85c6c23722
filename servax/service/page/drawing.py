"""What the page shows of a clip: one sentence on what happened, both attackers, spectrograms.

The spectrograms share one colour scale; their axes are seconds and kilohertz.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from servax.features import LogMelSettings
from servax.features.logmel import hz_to_mel
from servax.report.style import new_figure, png, tidy
from servax.service.page.demonstration import Heard, Knowledge, Samples, Shown

ATTACKERS: dict[Knowledge, str] = {
    "oblivious": "knows the recogniser only",
    "adaptive": "knows the recogniser and the purifier",
}
RANGE_DB = 70.0
"""From the loudest cell of all pictures down to black."""
TICKS_HZ = (0, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 24_000)
WIDTH_INCHES, HEIGHT_INCHES, DPI = 4.4, 2.9, 130


def verdict(shown: Shown) -> str:
    """Return HTML: what happened to the clip, and what the other attacker gets."""
    name = _names(shown)
    original, attempt = shown.clip.original, shown.attempt
    if attempt is None:
        kept = shown.clip.purified.answer == original.answer
        end = "stays" if kept else "costs something here: it becomes"
        return _box(
            "quiet",
            f"Without an attack the clip is heard as {name(original)}. Purified, it {end} "
            f"{name(shown.clip.purified)}.",
        )
    start = (
        f"The attack turns {name(original)} into {name(attempt.attacked)}."
        if attempt.attacked.answer != original.answer
        else f"The bare recogniser still hears {name(original)}."
    )
    held = attempt.purified.answer == original.answer
    end = f"Behind the purifier it is {name(attempt.purified)}{'' if held else ': not given back'}."
    others = [
        f"The attacker who {ATTACKERS[other.knowledge]} gets {name(other.purified)} behind it."
        for other in shown.attempts
        if other is not attempt
    ]
    return _box("held" if held else "lost", " ".join([start, end, *others]))


def both_attackers(shown: Shown) -> str:
    """Return an HTML table of what each attacker gets, and of the clip as it is."""
    name = _names(shown)
    rows = [
        _row(
            "nobody (the clip as it is)",
            "–",
            name(shown.clip.original),
            name(shown.clip.purified),
            f"{shown.clip.residual:.4f}",
        )
    ]
    for attempt in shown.attempts:
        rows.append(
            _row(
                ATTACKERS[attempt.knowledge],
                "no change" if math.isinf(attempt.snr_db) else f"{attempt.snr_db:.1f} dB",
                name(attempt.attacked),
                name(attempt.purified),
                f"{attempt.residual:.4f}",
                mark=attempt is shown.attempt,
            )
        )
    head = "".join(
        f"<th>{each}</th>"
        for each in (
            "attacker",
            "SNR",
            "bare recogniser hears",
            "behind the purifier it hears",
            "residual",
        )
    )
    return (
        f'<table class="servax-attackers"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def picture(png: bytes, description: str) -> str:
    """Return an HTML image that needs no file and no other request."""
    data = base64.b64encode(png).decode("ascii")
    words = html.escape(description, quote=True)
    return f'<img class="servax-picture" alt="{words}" src="data:image/png;base64,{data}">'


def _names(shown: Shown) -> Callable[[Heard], str]:
    def name(heard: Heard) -> str:
        label = html.escape(shown.clip.labels[heard.answer])
        return f"<b>{label}</b> ({100 * heard.probabilities[heard.answer]:.0f}&nbsp;%)"

    return name


def _box(kind: str, sentence: str) -> str:
    return f'<p class="servax-verdict servax-{kind}">{sentence}</p>'


def _row(*cells: str, mark: bool = False) -> str:
    chosen = ' class="servax-chosen"' if mark else ""
    return f"<tr{chosen}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def spectrograms(logmels: tuple[Samples, ...], settings: LogMelSettings) -> tuple[bytes, ...]:
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
