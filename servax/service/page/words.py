"""What the page says: one sentence on what happened, and both attackers side by side."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable

from servax.service.page.pictures import decibels_of
from servax.service.page.settings import Knowledge
from servax.service.page.showing import Heard, Shown

ATTACKERS: dict[Knowledge, str] = {
    "oblivious": "knows the recogniser only",
    "adaptive": "knows the recogniser and the purifier",
}


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
                decibels_of(attempt.snr_db),
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
