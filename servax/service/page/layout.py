"""Where everything stands on the page, how it looks, and what its two buttons do.

All of it comes from this machine.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from servax.errors import ServaxError
from servax.service.page.demonstration import (
    HIGHEST_SNR_DB,
    LOWEST_SNR_DB,
    Samples,
    Shown,
    ShowSettings,
    attackers,
    attempt,
    listen_to_file,
    speak_example,
)
from servax.service.page.drawing import ATTACKERS, both_attackers, picture, spectrograms, verdict
from servax.service.settings import PageLimits

Run = Callable[..., Awaitable[Any]]
"""Runs a function of the top level of a module, with the models before its arguments."""
ATTACKS = {"PGD, 15 steps": "pgd", "FGSM, one step": "fgsm", "none": "none"}
BROKEN = "This broke on the server, which has written down why; try again, or another clip."
COLUMNS = ("original", "attacked", "purified")
TITLE = "servax: an attack on speech, heard and seen"
HEAD = """# An attack on speech, heard and seen

A recogniser says how a clip sounds. An attack changes the samples, hardly audibly, until it says
something else; a purifier that has never seen the recogniser or an attack cleans the sound.
**An attacker who knows the purifier too mostly wins**, so both attackers are always shown."""
MEANING = """
- **Attack**: PGD (15 steps) or FGSM (one step) on the samples, away from what the recogniser says
  of the original. Nobody tells the page what is true, so "heard as" is not "right".
- **Strength**: the signal-to-noise ratio that the attack keeps, in dB. Lower is stronger and easier
  to hear.
- **Attacker**: who knows the purifier has exact gradients through it. The table shows both; sounds
  and pictures are those of the one you choose.
- **Attacked**: probabilities of the bare recogniser. **Purified**: those of the same recogniser for
  the purified sound.
- **Residual**: how far the purifier moves the spectrogram (mean of |x − P(x)|), which a detector
  thresholds. What is usual depends on speech and microphone, so there is no threshold here.
- **Sounds** are one channel at the rate of the recogniser, as 16-bit WAV. Clips are removed after
  some minutes; they are sent nowhere else.
- One clip says nothing about how often an attack works: `servax audit` measures that."""
CSS = """
.servax-verdict { border-left: 4px solid #8a8a8a; background: var(--background-fill-secondary);
  padding: .6em .9em; margin: 0; font-size: 1.05em; }
.servax-held { border-color: #009E73; }
.servax-lost { border-color: #D55E00; }
.servax-picture { width: 100%; height: auto; border-radius: 4px; display: block; }
.servax-attackers { width: 100%; border: 0 !important; border-collapse: collapse;
  font-size: .95em; }
.servax-attackers thead, .servax-attackers tbody, .servax-attackers tr { border: 0 !important; }
.servax-attackers th, .servax-attackers td { text-align: left; padding: .35em .7em;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.servax-attackers th { font-weight: 600; }
.servax-chosen td { background: var(--background-fill-secondary); }
"""


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
    drawn = spectrograms(tuple(each.logmel for each in heard), clip.logmel)
    parts: list[Any] = []
    for name, each, png in zip(COLUMNS, heard, drawn, strict=True):
        top = clip.labels[each.answer]
        parts += [
            dict(zip(clip.labels, each.probabilities, strict=True)),
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


def theme(gradio: Any) -> Any:
    """Return colours and letters; fonts are those of the reader's machine.

    Args:
        gradio: The library.
    """
    return gradio.themes.Default(
        primary_hue=gradio.themes.colors.blue,
        neutral_hue=gradio.themes.colors.slate,
        radius_size=gradio.themes.sizes.radius_sm,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
