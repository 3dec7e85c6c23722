"""Where everything stands on the page, and what its two buttons do."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from servax.errors import ServaxError
from servax.service.page.hearing import listen_to_file, speak_example
from servax.service.page.look import HEAD, MEANING, TITLE
from servax.service.page.pictures import pictures
from servax.service.page.settings import (
    HIGHEST_SNR_DB,
    LOWEST_SNR_DB,
    PageLimits,
    ShowSettings,
)
from servax.service.page.showing import Heard, Samples, Shown, attackers, attempt
from servax.service.page.words import ATTACKERS, both_attackers, picture, verdict

Run = Callable[..., Awaitable[Any]]
"""Runs a function of the top level of a module, with the models before its arguments."""
ATTACKS = {"PGD, 15 steps": "pgd", "FGSM, one step": "fgsm", "none": "none"}
BROKEN = "This broke on the server, which has written down why; try again, or another clip."
COLUMNS = ("original", "attacked", "purified")


async def shown(run: Run, path: Path, settings: ShowSettings, limits: PageLimits) -> Shown:
    """Return what becomes of the sound in a file; both attackers work at the same time.

    Raises:
        Refusal: As `listen_to_file`, and what `run` refuses.
    """
    clip = await run(listen_to_file, path, limits)
    attempts = await asyncio.gather(
        *(run(attempt, clip.original, settings, kind) for kind in attackers(settings))
    )
    return Shown(settings, clip, tuple(attempts))


def build_blocks(gradio: Any, run: Run, limits: PageLimits) -> Any:
    """Return the page as Gradio's blocks.

    Args:
        gradio: The library.
        run: Runs what needs the models.
        limits: How much is taken.
    """
    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(60, limits.kept_seconds)
    ) as blocks:
        gradio.Markdown(HEAD)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                clip = gradio.Audio(
                    type="filepath",
                    sources=["upload", "microphone"],
                    label=f"Speech, at most {limits.seconds:g} s",
                    buttons=[],
                    elem_id="clip",
                )
                example = gradio.Button("Speak an example (synthetic voice)", elem_id="example")
            with gradio.Column(scale=3, min_width=300):
                choices = _choices(gradio)
                go = gradio.Button("Attack and purify", variant="primary", elem_id="go")
        said = gradio.HTML(elem_id="verdict")
        with gradio.Row():
            columns = [_column(gradio, name) for name in COLUMNS]
        table = gradio.HTML(elem_id="attackers")
        with gradio.Accordion("What this means", open=False):
            gradio.Markdown(MEANING)

        outputs = [said, *(part for column in columns for part in column), table]
        quiet = {"api_visibility": "private", "show_progress": "minimal"}
        go.click(_trying(gradio, run, limits), [clip, *choices], outputs, **quiet)
        example.click(_speaking(gradio, run), None, clip, **quiet)
    return blocks.queue(
        max_size=limits.waiting, default_concurrency_limit=limits.at_once, api_open=False
    )


def _trying(gradio: Any, run: Run, limits: PageLimits) -> Callable[..., Awaitable[list[Any]]]:
    async def try_it(path: str | None, attack: Any, snr_db: float, knowledge: Any) -> list[Any]:
        with _told(gradio):
            if path is None:
                raise ServaxError(
                    "There is no clip yet: drop a file, record one, or have the example spoken."
                )
            settings = ShowSettings(attack, snr_db, knowledge)
            return answer(await shown(run, Path(path), settings, limits))

    return try_it


def _speaking(gradio: Any, run: Run) -> Callable[[], Awaitable[tuple[int, Any]]]:
    async def speak() -> tuple[int, Any]:
        with _told(gradio):
            rate, sound = await run(speak_example)
            return rate, sixteen_bit(sound)

    return speak


def answer(shown: Shown) -> list[Any]:
    """Return what each part of the page becomes, from top to bottom."""
    clip, chosen = shown.clip, shown.attempt
    heard = (
        (clip.original, clip.original, clip.purified)
        if chosen is None
        else (clip.original, chosen.attacked, chosen.purified)
    )
    drawn = pictures(tuple(each.logmel for each in heard), clip.logmel)
    parts: list[Any] = []
    for name, each, png in zip(COLUMNS, heard, drawn, strict=True):
        top = clip.labels[each.answer]
        parts += [
            _probabilities(clip.labels, each),
            picture(png, f"Spectrogram of the {name} sound, heard as {top}"),
            (clip.logmel.sample_rate, sixteen_bit(each.sound)),
        ]
    return [verdict(shown), *parts, both_attackers(shown)]


def sixteen_bit(sound: Samples) -> Any:
    """Return samples (T,), full scale ±1, as int16: Gradio would bring others to full scale."""
    return np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16)


def _choices(gradio: Any) -> tuple[Any, Any, Any]:
    """Place attack, strength and what the attacker knows."""
    defaults = ShowSettings()
    return (
        gradio.Radio(
            list(ATTACKS.items()), value=defaults.attack, label="Attack", elem_id="attack"
        ),
        gradio.Slider(
            LOWEST_SNR_DB,
            HIGHEST_SNR_DB,
            value=defaults.snr_db,
            step=1,
            label="Strength: signal-to-noise ratio, in dB (lower is stronger)",
            elem_id="strength",
        ),
        gradio.Radio(
            [(words, kind) for kind, words in ATTACKERS.items()],
            value=defaults.knowledge,
            label="The attacker",
            elem_id="knowledge",
        ),
    )


def _column(gradio: Any, name: str) -> tuple[Any, Any, Any]:
    with gradio.Column(min_width=240):
        return (
            gradio.Label(label=name.capitalize(), elem_id=f"{name}-label"),
            gradio.HTML(elem_id=f"{name}-picture"),
            gradio.Audio(
                label=f"{name.capitalize()} sound",
                interactive=False,
                buttons=["download"],
                elem_id=f"{name}-sound",
            ),
        )


def _probabilities(labels: tuple[str, ...], heard: Heard) -> dict[str, float]:
    return dict(zip(labels, heard.probabilities, strict=True))


@contextmanager
def _told(gradio: Any) -> Iterator[None]:
    """Turn refusals into one sentence on the page."""
    try:
        yield
    except ServaxError as error:
        # Gradio shows messages as HTML.
        sentence = html.escape(str(error), quote=False)
        raise gradio.Error(sentence, title="Not done", print_exception=False) from None
    except Exception as error:
        # Gradio writes the traceback to the log of the server.
        raise gradio.Error(BROKEN, title="Not done") from error
