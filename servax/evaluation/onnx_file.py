"""An ONNX file, as a system for black-box attacks (extra ``onnx``: onnxruntime, on the CPU).

The file may say what it is in its metadata (``metadata_props``): ``labels``, a JSON list of the
classes in the order of the logits, and ``sample_rate`` in Hz.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from servax.errors import CheckpointError, ShapeError
from servax.evaluation.systems import Said, System, hash_of_files, system_of
from servax.evaluation.trial import Inputs
from servax.runtime.purifier import open_session

TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
RANKS: dict[int, Inputs] = {2: "waveform", 4: "logmel"}


class OnnxClassifier(nn.Module):
    """Maps inputs to logits (B, C) of an ONNX session; gradients do not pass.

    A file exported for a fixed batch is fed that many utterances at a time. One exported for a
    fixed length of sound keeps the middle of longer waveforms and fills shorter ones with zeros.

    Args:
        session: Its onnxruntime session.
        sizes: Each dimension of its input; None where any size will do.
        output: Name of the logits.
    """

    def __init__(self, session: Any, sizes: Sequence[int | None], output: str) -> None:
        super().__init__()
        self.session = session
        self.sizes = tuple(sizes)
        self.output = output
        self.input = session.get_inputs()[0]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return float32 logits (B, C) of inputs (B, T) or (B, 1, M, F).

        Raises:
            ShapeError: The inputs are not of the shape that the file is made for.
        """
        rows = self._fitted(x.detach()).cpu().numpy().astype(TYPES[self.input.type])
        batch = self.sizes[0] or max(len(rows), 1)
        found = [self._run(rows[i : i + batch], batch) for i in range(0, len(rows), batch)]
        logits = np.concatenate(found).astype(np.float32)
        return torch.from_numpy(logits).to(x.device)

    def _run(self, rows: Any, batch: int) -> Any:
        """Return the logits of at most `batch` rows, filled up where the batch is fixed."""
        missing = batch - len(rows)
        full = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
        return self.session.run([self.output], {self.input.name: full})[0][: len(rows)]

    def _fitted(self, x: Tensor) -> Tensor:
        length = self.sizes[1]
        if len(self.sizes) == 2 and x.ndim == 2 and length is not None:
            extra = x.shape[1] - length
            x = x[:, extra // 2 :][:, :length] if extra > 0 else nn.functional.pad(x, (0, -extra))
        wanted = ["B", *("any" if size is None else str(size) for size in self.sizes[1:])]
        fits = x.ndim == len(self.sizes) and all(
            size in (None, given) for size, given in zip(self.sizes[1:], x.shape[1:], strict=True)
        )
        if not fits:
            raise ShapeError("x", x.shape, f"({', '.join(wanted)}), as the ONNX file")
        return x


def load_onnx(path: Path, said: Said) -> System:
    """Return the model in an ONNX file.

    Raises:
        ServaxError: onnxruntime is not installed.
        CheckpointError: The file is broken, or not from one input of 2 or 4 dimensions to logits.
        SettingError: Rate or labels are unknown, or what is said contradicts the file.
    """
    if not path.is_file():
        raise CheckpointError(path, "no such file; expected an ONNX file")
    session = open_session(path, threads=torch.get_num_threads())
    model = _classifier(path, session)
    labels, rate = _metadata(path, session)
    own = Said(labels=labels, sample_rate=rate, inputs=RANKS[len(model.sizes)])
    if own.inputs == "logmel":
        own = replace(own, size=(model.sizes[2], model.sizes[3]))
    elif model.sizes[1] and (rate or said.sample_rate):
        own = replace(own, seconds=model.sizes[1] / (rate or said.sample_rate or 0))
    return system_of(
        model,
        said,
        own,
        name=path.stem,
        place=str(path),
        source=f"ONNX file {path}",
        fingerprint=hash_of_files([path]),
        shut_by="an ONNX file runs outside torch, which gives no gradients",
        any_length=False,
    )


def _classifier(path: Path, session: Any) -> OnnxClassifier:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) not in RANKS or inputs[0].type not in TYPES:
        given = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise CheckpointError(
            path, f"takes {given}; expected one input of numbers, (B, T) or (B, 1, M, F)"
        )
    names = [output.name for output in outputs]
    if len(names) > 1 and "logits" not in names:
        raise CheckpointError(path, f"gives {', '.join(names)}; expected one output, or `logits`")
    sizes = [size if isinstance(size, int) else None for size in inputs[0].shape]
    return OnnxClassifier(session, sizes, "logits" if "logits" in names else names[0])


def _metadata(path: Path, session: Any) -> tuple[list[str] | None, int | None]:
    """Return the labels and the sample rate that a file states."""
    said = session.get_modelmeta().custom_metadata_map
    try:
        labels = json.loads(said.get("labels", "null"))
        rate = int(said["sample_rate"]) if "sample_rate" in said else None
        if labels is not None and not isinstance(labels, list):
            raise ValueError("labels")
    except ValueError:
        raise CheckpointError(
            path,
            "has metadata that cannot be read; expected `labels` as a JSON list of names and "
            "`sample_rate` as a whole number of Hz",
        ) from None
    return labels, rate
