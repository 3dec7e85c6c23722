"""Opens ONNX files with onnxruntime, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servax.errors import CheckpointError, SettingError
from servax.files import expanded
from servax.runtime.extras import load_extra

LARGEST_BYTES = 1 << 30
"""Of a file; those of `servax export` have a few million."""


def file_of(where: Path) -> Path:
    """Return the ONNX file that a path means: itself, or the only one in a folder.

    Raises:
        CheckpointError: There is none, or there are several.
    """
    where = expanded(where)
    if not where.is_dir():
        return where
    found = sorted(where.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(where, f"holds {names}; expected one file that ends in .onnx")
    return found[0]


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """Return the onnxruntime session of a file.

    Args:
        path: The file.
        threads: Of onnxruntime; default as many as there are cores.

    Raises:
        CheckpointError: It is missing, too large or broken.
        SettingError: `threads` is below 1.
        ServaxError: onnxruntime is not installed.
    """
    if threads is not None and threads < 1:
        raise SettingError("threads", threads, "a whole number of at least 1")
    runtime = load_extra("onnxruntime", extra="onnx", what="an ONNX file")
    if not path.is_file():
        raise CheckpointError(path, "no such file; expected one of servax export")
    if path.stat().st_size > LARGEST_BYTES:
        raise CheckpointError(path, f"is larger than {LARGEST_BYTES} bytes")
    return started(runtime, path, threads=int(threads or 0))


def started(runtime: Any, file: Path | bytes, *, threads: int) -> Any:
    """Return the session of a file that is there, or of the content of one, on the CPU.

    Args:
        runtime: The library, onnxruntime.
        file: The file, or what it holds.
        threads: Of onnxruntime; 0 is as many as there are cores.

    Raises:
        CheckpointError: It is broken.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: they are raised, and told in our sentence
    try:
        return runtime.InferenceSession(
            file if isinstance(file, bytes) else str(file),
            sess_options=options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # The classes of onnxruntime share no other base.
        path = "a file" if isinstance(file, bytes) else file
        raise CheckpointError(path, f"is no ONNX file that onnxruntime can run ({error})") from None
