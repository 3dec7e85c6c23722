"""Runs a victim process, and tells what each sound did to it: an answer, a crash, a hang."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

VICTIM = Path(__file__).with_name("victim.py")
NOISE = ("Traceback (most recent call last)", "From cffi callback", "AddressSanitizer")
"""What may not stand in what the victim says on its standard error."""


class Watched:
    """A victim process that is begun anew whenever a sound ends it.

    Args:
        mode: ``body`` or ``file``.
        purifier: A folder or a packaged name.
        seconds: How long one sound may take before it counts as a hang.
    """

    def __init__(self, mode: str, purifier: str, seconds: float = 10.0) -> None:
        self.mode, self.purifier, self.seconds = mode, purifier, seconds
        self.starts = 0
        self._folder = tempfile.TemporaryDirectory(prefix="hostile-")
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def give(self, sound: bytes) -> dict[str, Any]:
        """Return what the victim says of a sound; `outcome` is ``crash`` or ``hang`` otherwise."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer tells
            self._process.stdin.write(struct.pack("<I", len(sound)) + sound)
            self._process.stdin.flush()
        line = self._line(self.seconds)
        if line is not None and line.endswith(b"\n"):
            return json.loads(line)
        said = {"outcome": "hang"} if line is None else self._crash()
        self._stop()
        self._start()
        return said

    def complaints(self) -> list[str]:
        """Return the lines on the victim's standard error that show a fault of ours."""
        text = self._errors.read_text("utf-8", "replace")
        return [line for line in text.splitlines() if any(sign in line for sign in NOISE)]

    def stray(self) -> list[str]:
        """Return what lies in the folders that the victim saw as home and as working folder."""
        return sorted(
            str(path.relative_to(self._folder.name))
            for name in ("home", "here")
            for path in Path(self._folder.name, name).rglob("*")
        )

    def _crash(self) -> dict[str, Any]:
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return {"outcome": "crash", "trace": name}

    def _line(self, seconds: float) -> bytes | None:
        """Return the next line, what there was of it when the victim ended, or None in time."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else None

    def _start(self) -> None:
        root = Path(self._folder.name)
        folders = {name: root / name for name in ("tmp", "home", "here")}
        for each in folders.values():
            each.mkdir(exist_ok=True)
        self._errors = root / "errors"
        environment = os.environ | {
            "TMPDIR": str(folders["tmp"]),
            "HOME": str(folders["home"]),
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(VICTIM), self.mode, self.purifier],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folders["here"],
                env=environment,
            )
        self.starts += 1
        line = self._line(120.0)
        if not line:
            raise RuntimeError(f"the victim did not start: {self._errors.read_text()[-2_000:]}")
        self.rss_ready = json.loads(line)["rss"]

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
