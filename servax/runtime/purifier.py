"""An exported purifier in front of a model, with NumPy and onnxruntime alone.

The file holds all that comes between a clip and the purified clip. So the result is that of
`servax.Purifier` to about 1e-4 of full scale. Sound of another rate than the front-end's also needs
soxr.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servax.errors import CheckpointError, SettingError
from servax.files import expanded
from servax.kinds import typed
from servax.runtime.host import load_extra
from servax.runtime.samples import Samples, check_rate
from servax.runtime.stream import ClipCleaner

ROLE = "purifier"
"""Of a file that maps clips to purified ones."""
LONGEST_CLIP_SECONDS = 3600.0
LARGEST_BYTES = 1 << 30
"""Of a file; those of `servax export` have a few million."""


class Purifier(ClipCleaner):
    """Maps sound to cleaned sound by an exported purifier.

    Args:
        session: Of onnxruntime, from clips (B, T) to purified ones.
        rate: Of the clips, in Hz.
        clip_seconds: How long a clip is at most.

    Example:
        >>> purifier = Purifier.load("purifier.onnx")  # doctest: +SKIP
        >>> cleaned = purifier.purify(waveform, sample_rate=16_000)  # doctest: +SKIP
    """

    rate: int = 0
    clip_seconds: float = 0.0

    @typed
    def __init__(self, session: Any, rate: int, clip_seconds: float) -> None:
        if not callable(getattr(session, "get_inputs", None)):
            raise SettingError(
                "session", type(session).__name__, "one of onnxruntime; Purifier.load opens a file"
            )
        check_rate(rate)
        if not 0 < clip_seconds <= LONGEST_CLIP_SECONDS:
            expected = f"a number in (0, {LONGEST_CLIP_SECONDS:g}]"
            raise SettingError("clip_seconds", clip_seconds, expected)
        self.rate, self.clip_seconds = int(rate), clip_seconds
        self._session, self._input = session, session.get_inputs()[0].name

    @classmethod
    @typed
    def load(cls, where: str | Path, *, threads: int | None = None) -> Purifier:
        """Return the purifier in a file of ``servax export``.

        Args:
            where: The file, or a folder in which it is the only ONNX file.
            threads: Of onnxruntime; default as many as there are cores.

        Raises:
            CheckpointError: There is no such file, or it holds no purifier of ``servax export``.
            SettingError: `where` is no path, or `threads` no whole number of at least 1.
            ServaxError: onnxruntime is not installed.
        """
        if threads is not None and threads < 1:
            raise SettingError("threads", threads, "a whole number of at least 1")
        path = expanded(where)
        if path.is_dir():
            path = _only_file(path)
        if not path.is_file():
            raise CheckpointError(path, "no such file; expected one of servax export")
        if path.stat().st_size > LARGEST_BYTES:
            raise CheckpointError(path, f"is larger than {LARGEST_BYTES} bytes")
        session = open_session(path, threads=int(threads or 0))
        said = session.get_modelmeta().custom_metadata_map
        if said.get("role") != ROLE:
            held = f"a {said['role']}" if "role" in said else "no network of servax export"
            raise CheckpointError(
                path, f"holds {held}, expected a purifier (servax export PURIFIER -o {path.name})"
            )
        try:
            return cls(session, _number(said, "sample_rate"), _number(said, "clip_seconds"))
        except SettingError as error:
            reason = f"has metadata that cannot be used: {error} Export it again"
            raise CheckpointError(path, reason) from None

    def difference(self, clip: Samples) -> Samples:
        """Return what purification adds to a clip (T,) at `rate`, at any level."""
        made: Samples = self._session.run(None, {self._input: clip[None]})[0][0]
        return made - clip


def open_session(file: Path | bytes, *, threads: int = 0, what: str = "an ONNX file") -> Any:
    """Return the onnxruntime session of a file that is there, or of the content of one, on the CPU.

    Args:
        file: The file, or what it holds.
        threads: Of onnxruntime; 0 is as many as there are cores.
        what: What needs onnxruntime, as the refusal names it.

    Raises:
        CheckpointError: It is broken.
        ServaxError: onnxruntime is not installed.
    """
    runtime = load_extra("onnxruntime", extra="onnx", what=what)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: they are raised, and told in our sentence
    content = file if isinstance(file, bytes) else str(file)
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # The classes of onnxruntime share no other base.
        path = "a file" if isinstance(file, bytes) else file
        raise CheckpointError(path, f"is no ONNX file that onnxruntime can run ({error})") from None


def _only_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(folder, f"holds {names}; expected one file that ends in .onnx")
    return found[0]


def _number(said: Mapping[str, str], name: str) -> Any:
    try:
        value = float(said[name])
    except (KeyError, ValueError):
        raise SettingError(name, said.get(name, "missing"), "a number") from None
    return value
