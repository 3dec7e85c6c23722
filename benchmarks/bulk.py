"""Purification of a folder, WAV to WAV, by ``servax purify``: reading and writing included.

The command runs as a user types it, in a process of its own, from its first import to the last
file: 1440 RAVDESS recordings (5329 s) by the local engine and by Ray. Both must write the same
bytes.

    python benchmarks/bulk.py
    python benchmarks/bulk.py --engines ray --workers 2
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from clips import environment, recordings
from harness import Row, Times, parser, race, write

from servax import audio

TARGET = 150.0
"""Seconds of sound in one second."""


def main() -> int:
    """Time the engines; 0 when the target is met and the bytes are equal."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--files", type=int, default=None, help="how many; default all")
    options.add_argument("--engines", nargs="+", default=["local", "ray"], help="which")
    options.add_argument("--workers", type=int, default=None, help="default as servax purify")
    given = options.parse_args()
    chosen = recordings(given.files)
    seconds = sum(audio.duration_seconds(path) for path in chosen)
    with tempfile.TemporaryDirectory(prefix="servax-bulk-") as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for path in chosen:
            shutil.copyfile(path, source / path.name)
        digests: dict[str, str] = {}

        def purify(engine: str) -> None:
            digests[engine] = _purify(source, Path(folder) / engine, engine, given.workers)

        contenders = {engine: partial(purify, engine) for engine in given.engines}
        times = race(contenders, rounds=given.rounds, warm_up=0)
    rows = [_row(name, each, seconds, len(chosen)) for name, each in times.items()]
    write(
        "bulk" if len(given.engines) > 1 else f"bulk-{given.engines[0]}",
        rows,
        times=times,
        folder=given.results,
        seconds_of_sound=seconds,
        files=len(chosen),
        workers=given.workers,
        digests=digests,
    )
    return 0 if all(row.met for row in rows) and len(set(digests.values())) == 1 else 1


def _purify(source: Path, out: Path, engine: str, workers: int | None) -> str:
    """Purify into a new folder and return a digest of all that was written."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "servax", "purify", source, "-o", out, "--engine", engine]
    if workers is not None:
        command += ["--workers", str(workers)]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    digest = hashlib.sha256()
    for path in sorted(out.rglob("*.wav")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _row(name: str, times: Times, seconds: float, files: int) -> Row:
    rate = seconds / times.seconds.median
    slow, quick = (seconds / pick(times.seconds.all) for pick in (max, min))
    return Row(
        what=f"`servax purify` of {files} files ({seconds:.0f} s), WAV to WAV, engine {name}",
        against="the time they play",
        target=f"≥ {TARGET:g} ×",
        measured=f"{rate:.0f} × ({slow:.0f} to {quick:.0f}), {times.seconds.median:.1f} s",
        met=rate >= TARGET,
    )


if __name__ == "__main__":
    sys.exit(main())
