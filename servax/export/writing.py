"""Writes a graph as an ONNX file that was compared with torch before it takes its place."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from servax.errors import CheckpointError, ServaxError, unwritable
from servax.export.graphs import DefendedGraph, PurifierGraph
from servax.files import whole_file
from servax.runtime.extras import load_extra, quiet
from servax.runtime.session import open_session

OPSET = 18
"""Of the ONNX operators; onnxruntime runs it from 1.14 on."""
EXPORTER_LOG = "torch.onnx._internal.exporter._registration"
TOLERANCE = 1e-4
"""Largest difference to torch, on [0, 1] or in logits of up to 1; larger ones in proportion."""
SUFFIX = ".onnx"
Graph = PurifierGraph | DefendedGraph


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


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """Yield a place to write to; what lies there afterwards becomes `path`, whole or not at all.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        with (
            whole_file(path) as whole,
            tempfile.TemporaryDirectory(dir=whole.parent, prefix=".export-") as folder,
        ):
            part = Path(folder) / path.name  # whose ending says how to write it
            yield part
            part.replace(whole)
    except OSError as error:
        raise CheckpointError(path, unwritable(error)) from None


def write_graph(graph: Graph, metadata: Mapping[str, str], path: Path) -> float:
    """Write a graph to a file and return its largest difference to torch on noise.

    Raises:
        ServaxError: A library of the extra onnx is missing, the graph cannot be exported, or the
            file does not compute what the graph does.
    """
    onnx = load_extra("onnx", extra="onnx", what="servax export")
    load_extra("onnxscript", extra="onnx", what="servax export")
    examples = noise(graph)
    program = _exported(graph, examples[0])
    program.save(str(path))
    stated = onnx.load(str(path))
    _forget_sources(stated.graph)
    onnx.helper.set_model_props(stated, {**metadata, "opset": str(OPSET)})
    onnx.save(stated, str(path))
    onnx.checker.check_model(str(path), full_check=True)
    largest = difference(graph, path, examples)
    if not largest <= TOLERANCE:
        raise ServaxError(
            f"the file differs from torch by {largest:.2g}, more than {TOLERANCE}: it is not kept."
        )
    return largest


def _forget_sources(graph: Any) -> None:
    """Take away which line of which file on this machine each node came from."""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def noise(graph: Graph) -> list[Tensor]:
    """Return inputs of several batches and lengths, the first for tracing."""
    draws = torch.Generator().manual_seed(0)
    if isinstance(graph, PurifierGraph):
        mels = graph.mels
        sizes = [(2, 1, mels, 96), (1, 1, mels, 373), (3, 1, mels, 50)]
        return [torch.rand(size, generator=draws) for size in sizes]
    rate = graph.front_end.settings.logmel.sample_rate
    half = graph.front_end.settings.logmel.window_samples // 2
    lengths = [(2, rate), (1, half + 1), (3, 7 * rate + 123), (1, 8 * half)]
    return [0.05 * torch.randn(size, generator=draws) for size in lengths]


def difference(graph: Graph, path: Path, examples: Sequence[Tensor]) -> float:
    """Return the largest difference between torch and a file, in proportion where it is large."""
    session = open_session(path, threads=1)
    largest = 0.0
    for x in examples:
        with torch.inference_mode():
            expected = graph(x)
        wanted = [expected] if isinstance(expected, Tensor) else list(expected)
        found = session.run(list(graph.outputs), {graph.inputs[0]: x.numpy()})
        for one, other in zip(wanted, found, strict=True):
            far = np.abs(one.numpy() - other).max(initial=0.0)
            largest = max(largest, float(far / max(1.0, np.abs(one.numpy()).max(initial=0.0))))
    return largest


def _exported(graph: Graph, example: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1)
    last = "frames" if isinstance(graph, PurifierGraph) else "samples"
    shapes = {0: batch, example.ndim - 1: torch.export.Dim(last, min=1)}
    try:
        # It tells of optional libraries that nothing here needs.
        with quiet(), silenced(EXPORTER_LOG):
            return torch.onnx.export(
                graph.eval(),
                (example,),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=(shapes,),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # The exporter's classes share no other base.
        network = type(getattr(graph, "network", graph)).__name__
        lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = lines[0].strip(" .") if lines else type(error).__name__
        raise ServaxError(
            f"this {network} cannot be exported with torch {torch.__version__} ({reason})."
        ) from None


@contextmanager
def silenced(logger: str | None) -> Iterator[None]:
    """Let a logger, none is the root, tell errors alone: advice that nobody here can act on."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
