"""``servax export``."""

from __future__ import annotations

from servax.errors import SettingError


def export_onnx(
    purifier: str,
    out: str | None = None,
    recogniser: str | None = None,
    int8: bool = False,
    calibration: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Export a purifier as ONNX, alone or with front-end and recogniser, any batch and length.

    Alone it maps log-Mel (B, 1, M, F) on [0, 1] to purified log-Mel; servax.runtime purifies sound
    with it, without torch. The file is compared with torch before it is put in its place.

    Args:
        purifier: Folder of a purifier, or a packaged one (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a
            Hugging Face hub id.
        out: File to write, ends in .onnx (needed; -o for short).
        recogniser: Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0): one
            graph from waveform (B, T) at the front-end's rate to logits (B, C) behind the purifier,
            logits without it and the residual score of an attack.
        int8: Write the int8 variant in place of float32: a third of the size, answers may change.
        calibration: A folder of speech (8 sounds at least; 64 are taken, evenly) that tells int8
            the ranges of activations beforehand: faster, and further from float32. Default sees
            them while the file runs.
        overwrite: Replace a file that is there already.
        json: Print JSON.
    """
    from servax.cli.exporting import export_network

    if out is None:
        raise SettingError("out", None, "a file to write that ends in .onnx, given as -o OUT")
    return export_network(
        purifier,
        out,
        recogniser=recogniser,
        int8=int8,
        calibration=calibration,
        overwrite=overwrite,
        as_json=json,
    )
