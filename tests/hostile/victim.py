"""The process that hostile sound is given to: reads sounds from a pipe, answers a line for each.

    python victim.py body|file PURIFIER

Each sound is four bytes of size and its bytes; ``body`` decodes them as the service does, ``file``
writes them to a file and reads and purifies that as the command line does. From the moment it is
ready it may not open a file for writing outside its temporary folder, nor ask the system for more
than a stated amount of memory; in ``body`` mode the kernel lets it write no byte into any file.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from servax import audio
from servax.errors import AudioError, ServaxError
from servax.purifier import Purifier
from servax.purifier.files import purify_file
from servax.purifier.plans import FileJob
from servax.service import Refusal, ServiceSettings, decode
from servax.service.decoding import MOST_SAMPLES

PURIFIED_SECONDS = 1.0
"""Longer sounds are decoded and not purified: that costs time and shows nothing new."""
MORE_MEMORY = 1 << 30
"""What the address space may grow by once ready, in bytes."""
LONGEST_SENTENCE = 200
WRITING = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.remove"}


class Watch:
    """Notes each attempt to write outside the temporary folder; nothing is let pass unseen."""

    def __init__(self, allowed: Path) -> None:
        self.allowed = str(allowed.resolve())
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
                self._check(event, path)
        elif event in WRITING:
            self._check(event, arguments[0])
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
            self.seen.append(event)

    def _check(self, event: str, path: object) -> None:
        named = isinstance(path, (str, bytes, os.PathLike))
        if not named or not Path(os.fsdecode(path)).absolute().is_relative_to(self.allowed):
            self.seen.append(f"{event} {path!r}")


def body(purifier: Purifier, sound: bytes) -> dict[str, Any]:
    """Return what the service would make of a body."""
    try:
        decoded = decode(sound, ServiceSettings())
    except Refusal as refusal:
        return {"outcome": refusal.code, "sentence": str(refusal)}
    assert decoded.samples.dtype == np.float32
    assert np.isfinite(decoded.samples).all()
    assert decoded.samples.shape[1] <= ServiceSettings().max_channels
    assert decoded.samples.size <= MOST_SAMPLES
    if len(decoded.samples) > PURIFIED_SECONDS * decoded.rate:
        return {"outcome": "decoded", "container": decoded.container}
    for channel in decoded.samples.T:
        purified = purifier.purify(np.ascontiguousarray(channel), decoded.rate)
        assert purified.shape == channel.shape
        if not np.isfinite(purified).all():
            return {"outcome": "not_finite_after", "container": decoded.container}
    return {"outcome": "purified", "container": decoded.container}


def file(purifier: Purifier, sound: bytes) -> dict[str, Any]:
    """Return what the command line would make of a file."""
    folder = Path(tempfile.gettempdir())
    source, target = folder / "sound.bin", folder / "purified.wav"
    source.write_bytes(sound)
    try:
        seconds = audio.duration_seconds(source)
        heard = audio.read(source) if seconds < 600 else None
        assert heard is None or np.isfinite(heard).all()
    except AudioError as error:
        return {"outcome": error.cause, "sentence": str(error).removeprefix(str(source))}
    if seconds > PURIFIED_SECONDS:
        return {"outcome": "decoded"}
    outcome = purify_file(purifier, FileJob(str(source), str(target)), overwrite=True)
    assert target.exists() == (outcome.status == "done"), outcome
    target.unlink(missing_ok=True)
    sentence = outcome.sentence.removeprefix(str(source))
    return {"outcome": f"purify_{outcome.status}", "sentence": sentence}


def main() -> None:
    """Answer until the pipe ends."""
    mode, name = sys.argv[1:]
    torch.set_num_threads(1)
    purifier = Purifier.from_pretrained(name).frozen()
    purifier.purify(np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32), 16_000)
    folder = Path(tempfile.gettempdir())
    before = {each.name for each in folder.iterdir()} | {"sound.bin"}
    watch = Watch(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, used + MORE_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if mode == "body":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    handle = {"body": body, "file": file}[mode]
    answer({"ready": True, "rss": peak()})
    while size := sys.stdin.buffer.read(4):
        sound = sys.stdin.buffer.read(*struct.unpack("<I", size))
        began = time.perf_counter()
        try:
            said = handle(purifier, sound)
        except ServaxError:
            said = {"outcome": "unexpected_refusal", "trace": traceback.format_exc()}
        except Exception:
            said = {"outcome": "traceback", "trace": traceback.format_exc()}
        sentence = said.get("sentence", "")
        if str(folder) in sentence or len(sentence) > LONGEST_SENTENCE or "\n" in sentence:
            said["leak"] = sentence
        said |= {"seconds": time.perf_counter() - began, "rss": peak(), "writes": watch.seen[:5]}
        answer(said | {"left": sorted({each.name for each in folder.iterdir()} - before)})
        watch.seen.clear()


def peak() -> int:
    """Return the most memory this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
