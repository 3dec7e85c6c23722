"""An int8 variant of an exported file, by onnxruntime.quantization.

Static: the range of every activation is seen on real clips beforehand, weights have a scale for
each channel. Dynamic: ranges are seen while the file runs, which is slower and closer. Only the
networks' 3x3 and 1x1 convolutions and their matrix products become int8. The front-end stays
float32, since the power of speech spans more decibels than 8 bits hold, and so do the cosine
transform of the texture shuffle and the first and last convolution of a network.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servax.runtime.host import load_extra, quiet

FRONT_END = "front_end."
"""Begins the names of the front-end's weights in a graph."""
LARGEST_KERNEL = 3
FEWEST_CHANNELS = 4
"""A convolution from or to as many channels is a network's first or last."""
OPERATORS = ["Conv", "MatMul", "Gemm"]


def quantised(content: bytes, clips: Sequence[NDArray[np.float32]] = ()) -> bytes:
    """Return the int8 variant of an exported file.

    Args:
        content: The float32 file.
        clips: Real inputs of the graph, one clip each, for a static variant; none for a dynamic
            one.

    Raises:
        ServaxError: A library of the extra onnx is missing.
    """
    onnx = load_extra("onnx", extra="onnx", what="int8")
    tools = load_extra("onnxruntime.quantization", extra="onnx", what="int8")
    model = onnx.load_from_string(content)
    said = {entry.key: entry.value for entry in model.metadata_props}
    operators = {"op_types_to_quantize": OPERATORS, "nodes_to_exclude": kept_float(model)}
    unsigned, signed = tools.QuantType.QUInt8, tools.QuantType.QInt8
    # It advises to run a preprocessor that knows no dynamic sizes.
    with quiet(), silenced(None), tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        if clips:
            tools.quantize_static(
                model,
                target,
                _Clips(model.graph.input[0].name, clips),
                per_channel=True,
                reduce_range=True,  # x86 without VNNI adds two products in 16 bits
                activation_type=unsigned,
                weight_type=signed,
                **operators,
            )
        else:
            # onnxruntime's integer convolution knows one unsigned scale for all channels.
            tools.quantize_dynamic(model, target, weight_type=unsigned, **operators)
        made = onnx.load(target)
    # What the file says about itself is not kept by the quantiser.
    method = "static" if clips else "dynamic"
    onnx.helper.set_model_props(made, {**said, "quantised": f"int8, {method}"})
    result: bytes = made.SerializeToString()
    return result


class _Clips:
    """Gives the inputs of a calibration one by one, as onnxruntime asks for them."""

    def __init__(self, name: str, clips: Sequence[NDArray[np.float32]]) -> None:
        self._left = iter([{name: each} for each in clips])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._left, None)


def kept_float(model: Any) -> list[str]:
    """Return the names of the nodes of an exported model that stay float32."""
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
