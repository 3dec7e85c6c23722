"""Exports a purifier, alone or with front-end and recogniser, as one ONNX file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCard
from numpy.typing import NDArray

import servax
from servax.export.graphs import DefendedGraph, PurifierGraph
from servax.export.quantising import check_calibration, quantise
from servax.export.writing import (
    OPSET,
    check_place,
    difference,
    noise,
    placed,
    write_graph,
)
from servax.features import FrontEndSettings, Scaling
from servax.features.frontend import SILENCE_RMS
from servax.files import expanded
from servax.pretrained import resolve
from servax.purifier import Purifier
from servax.recognition import Recogniser
from servax.runtime.settings import DEFENDED, PURIFIER

Clips = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: str
    """Where it lies."""
    role: str
    """`purifier`, or `defended recogniser`."""
    opset: int
    """Of the ONNX operators."""
    size_bytes: int
    """Of the file."""
    difference: float
    """Largest difference to torch on noise: on [0, 1] or in logits, in proportion above 1."""
    int8: bool
    """Whether it is the int8 variant."""


def export_purifier(
    purifier: Purifier,
    path: str | Path,
    *,
    name: str = "",
    overwrite: bool = False,
    int8: bool = False,
    calibration: Clips = (),
) -> Exported:
    """Write a purifier: log-Mel (B, 1, M, F) on [0, 1] to the same shape, any B and F.

    Args:
        purifier: What is exported.
        path: Ends in .onnx; the file appears whole or not at all.
        name: Of the purifier, as `Purifier.from_pretrained` takes it; the licence of its model card
            goes with it.
        overwrite: Replace a file that is there.
        int8: Write the int8 variant.
        calibration: Log-Mels (B, 1, M, F) of real clips, which make a static int8 variant; without
            them it is dynamic.

    Raises:
        CheckpointError: The place cannot be written.
        SettingError: There are too few clips to calibrate with.
        ServaxError: The extra onnx is missing, or the network cannot be exported faithfully.
    """
    said = _metadata(PURIFIER, purifier.front_end, purifier.scale, purifier=name)
    return _write(PurifierGraph(purifier), said, Path(path), overwrite, int8, calibration)


def export_defended(
    purifier: Purifier,
    recogniser: Recogniser,
    path: str | Path,
    *,
    names: tuple[str, str] = ("", ""),
    overwrite: bool = False,
    int8: bool = False,
    calibration: Clips = (),
) -> Exported:
    """Write front-end, purifier and recogniser: waveform (B, T) to logits (B, C), any B and T.

    Outputs: ``logits`` behind the purifier, ``undefended_logits`` and ``residual`` (B,), the mean
    change of the log-Mel, by which `servax.defences.Detector` tells attacked input.

    Args:
        purifier: Stands before the recogniser.
        recogniser: What is defended.
        path: Ends in .onnx; the file appears whole or not at all.
        names: Of purifier and recogniser; the licences of their model cards go with them.
        overwrite: Replace a file that is there.
        int8: Write the int8 variant.
        calibration: Waveforms (B, T) of real clips, which make a static int8 variant; without them
            it is dynamic.

    Raises:
        CheckpointError: The place cannot be written.
        SettingError: The two do not fit together, or there are too few clips to calibrate with.
        ServaxError: The extra onnx is missing, or the networks cannot be exported faithfully.
    """
    said = _metadata(
        DEFENDED,
        recogniser.front_end,
        recogniser.scale,
        purifier=names[0],
        recogniser=names[1],
        labels=recogniser.labels,
    )
    return _write(
        DefendedGraph(purifier, recogniser), said, Path(path), overwrite, int8, calibration
    )


def _write(
    graph: PurifierGraph | DefendedGraph,
    said: dict[str, str],
    path: Path,
    overwrite: bool,
    int8: bool,
    calibration: Clips,
) -> Exported:
    path = expanded(path)
    check_place(path, overwrite=overwrite)
    check_calibration(len(calibration), int8=int8)
    with placed(path) as part:
        far = write_graph(graph, said, part)
        if int8:
            exact = part.with_name(f"float32-{part.name}")
            part.rename(exact)
            quantise(exact, part, calibration, method="static" if calibration else "dynamic")
            far = difference(graph, part, noise(graph))
        size = part.stat().st_size
    return Exported(str(path), said["role"], OPSET, size, far, int8)


def _metadata(
    role: str,
    front_end: FrontEndSettings,
    scale: Scaling,
    *,
    labels: Sequence[str] = (),
    **names: str,
) -> dict[str, str]:
    """Return what a file says about itself: `servax.runtime` and `servax audit` read it."""
    said = {
        "role": role,
        "front_end": json.dumps({**asdict(front_end), "silence_rms": SILENCE_RMS}),
        "scale": json.dumps(asdict(scale.settings)),
        "sample_rate": str(front_end.logmel.sample_rate),
        "servax": servax.__version__,
        **{kind: name for kind, name in names.items() if name},
    }
    if labels:
        said["labels"] = json.dumps(list(labels))
    licences = {kind: _licence(name) for kind, name in names.items() if name}
    stated = {kind: licence for kind, licence in licences.items() if licence}
    if stated:
        said["licence"] = "; ".join(f"{kind}: {licence}" for kind, licence in stated.items())
    return said


def _licence(name: str) -> str | None:
    """Return the licence on the model card of a folder or a packaged network, where it has one."""
    card = resolve(name) / "README.md"
    try:
        stated = ModelCard.load(card).data.license if card.is_file() else None
    except (OSError, ValueError):
        return None
    return str(stated) if stated else None
