"""An int8 variant of an exported file, by onnxruntime.quantization.

Static: the range of every activation is seen on real clips beforehand, weights have a scale for
each channel. Dynamic: ranges are seen while the file runs, which is slower and closer. Only the
networks' 3x3 and 1x1 convolutions and their matrix products become int8. The front-end stays
float32, since the power of speech spans more decibels than 8 bits hold, and so do the cosine
transform of the texture shuffle and the first and last convolution of a network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from servax.errors import SettingError
from servax.runtime.host import load_extra, quiet

Method = Literal["static", "dynamic"]
FEWEST_CLIPS = 8
"""That tell the ranges of activations."""
FRONT_END = "front_end."
"""Begins the names of the front-end's weights in a graph."""
LARGEST_KERNEL = 3
FEWEST_CHANNELS = 4
"""A convolution from or to as many channels is a network's first or last."""
OPERATORS = ["Conv", "MatMul", "Gemm"]


class Calibration:
    """Gives the inputs of a calibration one by one, as onnxruntime asks for them.

    Args:
        name: Of the graph's input.
        inputs: Arrays of the graph's rank.
    """

    def __init__(self, name: str, inputs: Sequence[NDArray[np.float32]]) -> None:
        self._left = iter([{name: each} for each in inputs])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next input, or None after the last."""
        return next(self._left, None)


def quantise(
    source: Path,
    target: Path,
    clips: Sequence[NDArray[np.float32]] = (),
    *,
    method: Method = "static",
) -> None:
    """Write the int8 variant of an exported file.

    Args:
        source: The float32 file.
        target: Where the int8 file goes.
        clips: Real inputs of the graph, one clip each; `dynamic` needs none.
        method: `static`, or `dynamic`: ranges of activations are computed with every input.

    Raises:
        SettingError: There are too few clips.
        ServaxError: A library of the extra onnx is missing.
    """
    if method == "static" and len(clips) < FEWEST_CLIPS:
        raise too_few(len(clips))
    onnx = load_extra("onnx", extra="onnx", what="int8")
    tools = load_extra("onnxruntime.quantization", extra="onnx", what="int8")
    model = onnx.load(str(source))
    operators = {"op_types_to_quantize": OPERATORS, "nodes_to_exclude": kept_float(onnx, model)}
    unsigned, signed = tools.QuantType.QUInt8, tools.QuantType.QInt8
    # It advises to run a preprocessor that knows no dynamic sizes.
    with quiet(), silenced(None):
        if method == "dynamic":
            # onnxruntime's integer convolution knows one unsigned scale for all channels.
            tools.quantize_dynamic(str(source), str(target), weight_type=unsigned, **operators)
        else:
            tools.quantize_static(
                str(source),
                str(target),
                Calibration(model.graph.input[0].name, clips),
                per_channel=True,
                reduce_range=True,  # x86 without VNNI adds two products in 16 bits
                activation_type=unsigned,
                weight_type=signed,
                **operators,
            )
    # What the file says about itself is not kept by the quantiser.
    made = onnx.load(str(target))
    said = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(made, {**said, "quantised": f"int8, {method}"})
    onnx.save(made, str(target))


def check_calibration(clips: int, *, int8: bool) -> None:
    """Refuse a number of clips that calibrates nothing, before any work is done.

    Raises:
        SettingError: They are too few, or nothing is to be calibrated.
    """
    if clips and not int8:
        raise SettingError("calibration", f"{clips} clips", "none: it belongs to int8")
    if 0 < clips < FEWEST_CLIPS:
        raise too_few(clips)


def too_few(clips: int) -> SettingError:
    """Return the refusal of so few clips."""
    return SettingError("calibration", f"{clips} clips", f"at least {FEWEST_CLIPS}")


def kept_float(onnx: Any, model: Any) -> list[str]:
    """Return the names of the nodes that stay float32.

    Args:
        onnx: The library.
        model: An exported model.
    """
    shapes = {each.name: tuple(each.dims) for each in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if any(name.startswith(FRONT_END) for name in node.input):
            kept.append(node.name)
        elif node.op_type == "Conv":
            out, channels, *kernel = shapes.get(node.input[1], (0, 0, LARGEST_KERNEL + 1))
            if max(kernel) > LARGEST_KERNEL or min(out, channels) <= FEWEST_CHANNELS:
                kept.append(node.name)
    return kept


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
