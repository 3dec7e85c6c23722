"""Exports a purifier, alone or with front-end and recogniser, as one ONNX file.

A file is compared with torch before it takes its place.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard
from numpy.typing import NDArray
from torch import Tensor, nn

from servax import audio
from servax.errors import CheckpointError, ServaxError, SettingError
from servax.features import FrontEnd, waveform_batch
from servax.features.frontend import SILENCE_RMS
from servax.files import expanded, write_whole
from servax.pretrained import resolve
from servax.purifier.onnx_graphs import DefendedGraph, LogMelGraph, SoundGraph
from servax.purifier.purifier import Purifier
from servax.purifier.quantising import quantised, silenced
from servax.recognition import Recogniser
from servax.runtime.host import load_extra, quiet
from servax.runtime.purifier import open_session

OPSET = 18
"""Of the ONNX operators; onnxruntime runs it from 1.14 on."""
EXPORTER_LOG = "torch.onnx._internal.exporter._registration"
TOLERANCE = 1e-4
"""Largest difference to torch, on [0, 1] or in logits of up to 1; larger ones in proportion."""
FEWEST_CLIPS = 8
"""That tell int8 the ranges of activations."""
MOST_CLIPS = 64
"""Taken evenly from what a folder holds."""
SUFFIX = ".onnx"
Graph = SoundGraph | LogMelGraph | DefendedGraph


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: str
    """Where it lies."""
    role: str
    """`purifier`, `purifier of log-Mels` or `defended recogniser`."""
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
    recogniser: Recogniser | None = None,
    names: Sequence[str] = (),
    logmel: bool = False,
    overwrite: bool = False,
    int8: bool = False,
    calibration: Sequence[NDArray[np.float32]] = (),
) -> Exported:
    """Write a purifier of clips (1, T) at the front-end's rate, any T: all but the last level.

    `servax.runtime` purifies sound of any length and rate with it. With a recogniser it is one
    graph of front-end, purifier and recogniser, from waveform (B, T) to ``logits`` (B, C) behind
    the purifier, ``undefended_logits`` and ``residual`` (B,), the mean change of the log-Mel, by
    which `servax.defences.Detector` tells attacked input; any B and T.

    Args:
        purifier: What is exported.
        path: Ends in .onnx; the file appears whole or not at all.
        recogniser: What is defended.
        names: Of purifier and recogniser, as `from_pretrained` takes them; the licences of their
            model cards go with them.
        logmel: Write what maps log-Mel (B, 1, M, F) on [0, 1] to the same shape instead.
        overwrite: Replace a file that is there.
        int8: Write the int8 variant.
        calibration: Real inputs of the graph, one clip each, which make a static int8 variant;
            without them it is dynamic.

    Raises:
        PathError: The place cannot be written.
        SettingError: The two do not fit together, or there are too few clips to calibrate with.
        ServaxError: The extra onnx is missing, or a network cannot be exported faithfully.
    """
    path = expanded(path)
    check_place(path, overwrite=overwrite)
    clips = len(calibration)
    if clips and not int8:
        raise SettingError("calibration", f"{clips} clips", "none: it belongs to int8")
    if clips:
        _check_clips(clips)
    graph: Graph = LogMelGraph(purifier) if logmel else SoundGraph(purifier)
    if recogniser is not None:
        graph = DefendedGraph(purifier, recogniser)
    content = _onnx_file(graph, _metadata(graph.role, purifier, recogniser, names))
    far = difference(graph, content)
    if not far <= TOLERANCE:
        raise ServaxError(
            f"the file differs from torch by {far:.2g}, more than {TOLERANCE}: it is not kept."
        )
    if int8:
        content = quantised(content, calibration)
        far = difference(graph, content)
    write_whole(path, content)
    return Exported(str(path), graph.role, OPSET, len(content), far, int8)


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a place where no file can or may be written, before any work is done.

    Raises:
        CheckpointError: The name does not end in .onnx, its folder is missing, or it is there.
    """
    if path.suffix != SUFFIX:
        raise CheckpointError(path, f"expected a file name that ends in {SUFFIX}")
    if not path.parent.is_dir():
        raise CheckpointError(path, "its folder does not exist, create it first")
    if path.is_dir():
        raise CheckpointError(path, "is a folder, expected the name of a file")
    if path.exists() and not overwrite:
        raise CheckpointError(path, "is there already; add --overwrite to replace it")


def calibration_clips(
    sounds: Sequence[Path],
    heard: Purifier | Recogniser,
    *,
    logmel: bool,
    told: Callable[[int, int], object],
) -> list[NDArray[np.float32]]:
    """Return up to `MOST_CLIPS` inputs of a graph, evenly from sounds.

    Args:
        sounds: Files of speech.
        heard: What the graph begins with.
        logmel: Whether inputs are log-Mels (1, 1, M, F) on [0, 1]; else waveforms (1, T).
        told: Called after each with the number done and that of all.

    Raises:
        SettingError: There are fewer than `FEWEST_CLIPS` sounds.
        AudioError: A sound cannot be read.
    """
    _check_clips(len(sounds))
    chosen = sounds[:: max(1, len(sounds) // MOST_CLIPS)][:MOST_CLIPS]
    front_end = nn.Sequential(FrontEnd(heard.front_end), heard.scale)
    clips = []
    for done, path in enumerate(chosen, start=1):
        sound = audio.read(path, sample_rate=heard.front_end.logmel.sample_rate)
        with torch.inference_mode():
            x = front_end(waveform_batch(sound)).numpy() if logmel else sound[None]
        clips.append(x)
        told(done, len(chosen))
    return clips


def _check_clips(count: int) -> None:
    if count < FEWEST_CLIPS:
        raise SettingError("calibration", f"{count} clips", f"at least {FEWEST_CLIPS}")


def _metadata(
    role: str, purifier: Purifier, recogniser: Recogniser | None, names: Sequence[str]
) -> dict[str, str]:
    """Return what a file says about itself: `servax.runtime` and `servax audit` read it."""
    heard = purifier if recogniser is None else recogniser
    named = {k: name for k, name in zip(("purifier", "recogniser"), names, strict=False) if name}
    said = {
        "role": role,
        "opset": str(OPSET),
        "front_end": json.dumps({**asdict(heard.front_end), "silence_rms": SILENCE_RMS}),
        "scale": json.dumps(asdict(heard.scale.settings)),
        "sample_rate": str(heard.front_end.logmel.sample_rate),
        "servax": version("servax"),
        **named,
    }
    if recogniser is None:
        said["clip_seconds"] = repr(purifier.clip_seconds)
    else:
        said["labels"] = json.dumps(list(recogniser.labels))
    stated = [f"{kind}: {found}" for kind, name in named.items() if (found := _licence(name))]
    return {**said, "licence": "; ".join(stated)} if stated else said


def _licence(name: str) -> str | None:
    """Return the licence on the model card of a folder or a packaged network, where it has one."""
    card = resolve(name) / "README.md"
    try:
        stated = ModelCard.load(card).data.license if card.is_file() else None
    except (OSError, ValueError):
        return None
    return str(stated) if stated else None


def _onnx_file(graph: Graph, metadata: dict[str, str]) -> bytes:
    """Return the content of the ONNX file of a graph.

    Raises:
        ServaxError: A library of the extra onnx is missing, or the graph cannot be exported.
    """
    onnx = load_extra("onnx", extra="onnx", what="servax export")
    for module in ("onnxscript", "onnxruntime"):  # before the minute that it takes
        load_extra(module, extra="onnx", what="servax export")
    shapes = {axis: torch.export.Dim(name, min=least) for axis, (name, least) in graph.free.items()}
    try:
        # It tells of optional libraries that nothing here needs, and of what a GRU keeps.
        with quiet(), silenced(EXPORTER_LOG):
            warnings.simplefilter("ignore", UserWarning)
            program: Any = torch.onnx.export(
                graph.eval(),
                (_noise(graph)[0],),
                input_names=[graph.takes],
                output_names=list(graph.gives),
                dynamic_shapes=(shapes,),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # The exporter's classes share no other base.
        network = type(graph.purifier.network).__name__
        lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = lines[0].strip(" .") if lines else type(error).__name__
        raise ServaxError(
            f"this {network} cannot be exported with torch {torch.__version__} ({reason})."
        ) from None
    model = program.model_proto
    _forget_sources(model.graph)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _forget_sources(graph: Any) -> None:
    """Take away which line of which file on this machine each node came from."""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _noise(graph: Graph) -> list[Tensor]:
    """Return inputs of several sizes: sound, or log-Mels on [0, 1]."""
    draws = torch.Generator().manual_seed(0)
    if isinstance(graph, LogMelGraph):
        return [torch.rand(size, generator=draws) for size in graph.sizes]
    return [0.05 * torch.randn(size, generator=draws) for size in graph.sizes]


def difference(graph: Graph, content: bytes) -> float:
    """Return how far a file lies from torch on noise at most, in proportion where it is large."""
    session = open_session(content, threads=1, what="servax export")
    largest = 0.0
    for x in _noise(graph):
        with torch.inference_mode():
            expected = graph(x)
        wanted = [expected] if isinstance(expected, Tensor) else list(expected)
        found = session.run(list(graph.gives), {graph.takes: x.numpy()})
        for one, other in zip(wanted, found, strict=True):
            far = np.abs(one.numpy() - other).max(initial=0.0)
            largest = max(largest, float(far / max(1.0, np.abs(one.numpy()).max(initial=0.0))))
    return largest
