"""``servax export``: the work behind the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from servax import audio
from servax.bulk.folders import sounds_below
from servax.cli.output import bar, print_json, print_table, say
from servax.errors import SettingError
from servax.export import export_defended, export_purifier
from servax.export.quantising import FEWEST_CLIPS, too_few
from servax.export.writing import check_place
from servax.features import FrontEnd, waveform_batch
from servax.files import expanded
from servax.purifier import Purifier
from servax.recognition import Recogniser

MOST_CLIPS = 64
"""That calibrate; taken evenly from what a folder holds."""


def export_network(
    purifier: str,
    out: str,
    *,
    recogniser: str | None,
    int8: bool,
    calibration: str | None,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Export a purifier, or a purifier and the recogniser behind it."""
    if calibration is not None and not int8:
        raise SettingError("calibration", calibration, "none: it belongs to --int8")
    path = expanded(out)
    check_place(path, overwrite=overwrite)
    cleaner = Purifier.from_pretrained(purifier)
    behind = None if recogniser is None else Recogniser.from_pretrained(recogniser)
    clips: Sequence[NDArray[np.float32]] = ()
    if calibration is not None:
        clips = calibration_clips(calibration, cleaner, behind)
    say("exporting; this takes about a minute")
    if behind is None:
        made = export_purifier(
            cleaner, path, name=purifier, overwrite=overwrite, int8=int8, calibration=clips
        )
    else:
        made = export_defended(
            cleaner,
            behind,
            path,
            names=(purifier, str(recogniser)),
            overwrite=overwrite,
            int8=int8,
            calibration=clips,
        )
    if as_json:
        print_json(asdict(made))
    else:
        print_table(
            f"Exported to {path}",
            ["", ""],
            [
                ["holds", made.role],
                ["numbers", "int8" if made.int8 else "float32"],
                ["opset", made.opset],
                ["MB", f"{made.size_bytes / 1e6:.2f}"],
                ["largest difference to torch on noise", f"{made.difference:.1e}"],
            ],
        )
    return 0


def calibration_clips(
    sounds: str, purifier: Purifier, recogniser: Recogniser | None
) -> list[NDArray[np.float32]]:
    """Return up to `MOST_CLIPS` inputs of the graph: log-Mels of the purifier, or waveforms.

    Raises:
        SettingError: There are fewer than `FEWEST_CLIPS` sounds.
        AudioError: A sound cannot be read.
    """
    source = expanded(sounds)
    found = sounds_below(source)
    if len(found) < FEWEST_CLIPS:
        raise too_few(len(found))
    step = max(1, len(found) // MOST_CLIPS)
    chosen = found[::step][:MOST_CLIPS]
    settings = purifier.front_end if recogniser is None else recogniser.front_end
    logmel = nn.Sequential(FrontEnd(settings), purifier.scale)
    clips = []
    with bar("hearing") as update:
        for done, path in enumerate(chosen, start=1):
            heard = audio.read(path, sample_rate=settings.logmel.sample_rate)
            if recogniser is not None:
                clips.append(heard[None])
            else:
                with torch.inference_mode():
                    clips.append(logmel(waveform_batch(heard)).numpy())
            update(done, len(chosen))
    return clips
