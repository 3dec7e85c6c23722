"""``servax export``: a purifier, alone or before a recogniser, as ONNX."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass

from servax.cli.output import bar, note, print_json, print_table
from servax.errors import SettingError
from servax.files import expanded
from servax.purifier.folders import sounds_below


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
        from servax.purifier import Purifier, export
        from servax.recognition import Recogniser

        path = expanded(self.out)
        export.check_place(path, overwrite=self.overwrite)
        cleaner, named = Purifier.from_pretrained(self.purifier), [self.purifier]
        behind = None
        if self.recogniser is not None:
            behind = Recogniser.from_pretrained(self.recogniser)
            named.append(self.recogniser)
        clips = []
        if self.calibration is not None:
            sounds = sounds_below(expanded(self.calibration))
            heard = cleaner if behind is None else behind
            with bar("hearing") as update:
                clips = export.calibration_clips(sounds, heard, logmel=self.logmel, told=update)
        note("exporting; this takes about a minute")
        made = export.export_purifier(
            cleaner,
            path,
            recogniser=behind,
            names=named,
            logmel=self.logmel,
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
