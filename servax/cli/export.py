"""``servax export``: a purifier, alone or before a recogniser, as ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from servax import audio
from servax.cli.output import bar, print_json, print_table, say
from servax.errors import SettingError
from servax.features import FrontEnd, waveform_batch
from servax.files import expanded
from servax.purifier import Purifier
from servax.purifier.export import check_place, export_defended, export_purifier
from servax.purifier.folders import sounds_below
from servax.purifier.quantising import FEWEST_CLIPS, too_few
from servax.recognition import Recogniser

MOST_CLIPS = 64
"""That calibrate; taken evenly from what a folder holds."""


@dataclass(frozen=True)
class Export:
    """Export a purifier as ONNX, alone or with front-end and recogniser, any batch and length.

    Alone it maps a clip (1, T) at the front-end's rate to the purified one; servax.runtime purifies
    sound of any length and rate with it, without torch. The file is compared with torch before it
    is put in its place.
    """

    purifier: str
    """Folder of a purifier, or a packaged one (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a Hugging
    Face hub id."""
    _: KW_ONLY
    out: str | None = None
    """File to write, ends in .onnx (needed; -o for short)."""
    recogniser: str | None = None
    """Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0): one graph from
    waveform (B, T) at the front-end's rate to logits (B, C) behind the purifier, logits without it
    and the residual score of an attack."""
    logmel: bool = False
    """Write the purifier alone as what maps log-Mel (B, 1, M, F) on [0, 1] to purified log-Mel."""
    int8: bool = False
    """Write the int8 variant in place of float32: networks of a third of the size, answers may
    change."""
    calibration: str | None = None
    """A folder of speech (8 sounds at least; 64 are taken, evenly) that tells int8 the ranges of
    activations beforehand: faster, and further from float32. Default sees them while the file
    runs."""
    overwrite: bool = False
    """Replace a file that is there already."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Export a purifier, or a purifier and the recogniser behind it."""
        if self.out is None:
            expected = "a file to write that ends in .onnx, given as -o OUT"
            raise SettingError("out", None, expected)
        if self.calibration is not None and not self.int8:
            raise SettingError("calibration", self.calibration, "none: it belongs to --int8")
        if self.logmel and self.recogniser is not None:
            raise SettingError("logmel", True, "false: it belongs to a purifier alone")
        path = expanded(self.out)
        check_place(path, overwrite=self.overwrite)
        cleaner = Purifier.from_pretrained(self.purifier)
        behind = None if self.recogniser is None else Recogniser.from_pretrained(self.recogniser)
        clips = self.clips(cleaner if behind is None else behind)
        say("exporting; this takes about a minute")
        if behind is None:
            made = export_purifier(
                cleaner,
                path,
                name=self.purifier,
                logmel=self.logmel,
                overwrite=self.overwrite,
                int8=self.int8,
                calibration=clips,
            )
        else:
            made = export_defended(
                cleaner,
                behind,
                path,
                names=(self.purifier, str(self.recogniser)),
                overwrite=self.overwrite,
                int8=self.int8,
                calibration=clips,
            )
        if self.json:
            print_json(asdict(made))
        else:
            rows: list[list[object]] = [
                ["holds", made.role],
                ["numbers", "int8" if made.int8 else "float32"],
                ["opset", made.opset],
                ["MB", f"{made.size_bytes / 1e6:.2f}"],
                ["largest difference to torch on noise", f"{made.difference:.1e}"],
            ]
            print_table(f"Exported to {path}", ["", ""], rows)
        return 0

    def clips(self, heard: Purifier | Recogniser) -> Sequence[NDArray[np.float32]]:
        """Return up to `MOST_CLIPS` inputs of the graph: waveforms, or log-Mels of the purifier.

        Raises:
            SettingError: There are fewer than `FEWEST_CLIPS` sounds.
            AudioError: A sound cannot be read.
        """
        if self.calibration is None:
            return ()
        found = sounds_below(expanded(self.calibration))
        if len(found) < FEWEST_CLIPS:
            raise too_few(len(found))
        step = max(1, len(found) // MOST_CLIPS)
        chosen = found[::step][:MOST_CLIPS]
        front_end = nn.Sequential(FrontEnd(heard.front_end), heard.scale)
        clips = []
        with bar("hearing") as update:
            for done, path in enumerate(chosen, start=1):
                sound = audio.read(path, sample_rate=heard.front_end.logmel.sample_rate)
                if self.logmel:
                    with torch.inference_mode():
                        clips.append(front_end(waveform_batch(sound)).numpy())
                else:
                    clips.append(sound[None])
                update(done, len(chosen))
        return clips
