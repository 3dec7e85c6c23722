"""Builds sdist and wheel, and uses the wheel in an environment that holds nothing else.

The wheel is made from the sdist, so both are whole. It is installed with the pinned base, no extra;
then nothing but the base may be there, and ``servax purify`` must work with the packaged weights
from an empty folder. That each extra asks for what it is for, the wheel's metadata say. With
NumPy and onnxruntime alone, `servax.runtime` must purify.

    python .ci/package.py FOLDER      leaves dist/ and the environment in FOLDER
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import wave
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "requirements.txt"
DEV_PINS = ROOT / "requirements-dev.txt"
ASKED = {
    "attacks": "foolbox",
    "baselines": "noisereduce",
    "hf": "transformers",
    "onnx": "onnxruntime",
    "quality": "pystoi",
    "ray": "ray",
    "serve": "fastapi",
}
"""A package that each extra pulls, and the base never."""
LIGHT = """
import sys
import numpy as np
from servax import runtime

sound = np.sin(np.arange(16_000) / 20).astype(np.float32)
purified = runtime.Purifier.load(sys.argv[1]).purify(sound, 16_000)
assert np.abs(purified - sound).max() > 1e-3
print(purified.shape, purified.dtype)
"""
"""What runs without torch."""
BORN_WITH = {"pip", "setuptools", "servax"}


def main(folder: Path) -> None:
    """Build, look into the wheel, install it, use it."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT))
    (wheel,) = (folder / "dist").glob("*.whl")
    check_files(wheel)
    run(sys.executable, "-m", "venv", str(folder / "env"))
    python = folder / "env" / "bin" / "python"
    pip = (str(python), "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "-q", "--no-compile", "-c", str(PINS), str(wheel))
    check_installed(pip)
    check_extras(wheel)
    check_purify(python.parent / "servax")
    check_without_torch(folder, wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, works in an empty environment")  # noqa: T201


def run(*command: str, cwd: Path | None = None) -> str:
    """Return what a command printed; end with its words when it fails."""
    # Neither this checkout nor the caller's environment may stand in for what is installed.
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def check_files(wheel: Path) -> None:
    """Every file of the package is in the wheel, weights and all, and nothing else is."""
    held = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in (ROOT / "servax").rglob("*") if path.is_file())
    ours = {f.relative_to(ROOT).as_posix() for f in files if "__pycache__" not in f.parts}
    if not any(name.endswith("weights.safetensors") for name in ours):
        sys.exit("no packaged network was found below servax/pretrained")
    missing = sorted(ours - held)
    if missing:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    strange = sorted(name for name in held if not name.startswith(("servax/", "servax-")))
    if strange:
        sys.exit(f"{wheel.name} holds more than the package: {', '.join(strange)}")


def check_installed(pip: tuple[str, ...]) -> None:
    """Nothing but the pinned base is there."""
    listed = json.loads(run(*pip, "list", "--format=json"))
    pinned = {normal(m) for m in re.findall(r"^([\w.-]+)==", PINS.read_text(), re.MULTILINE)}
    strange = {normal(each["name"]) for each in listed} - pinned - BORN_WITH
    if strange:
        sys.exit(f"installed without being asked for: {', '.join(sorted(strange))}")


def check_extras(wheel: Path) -> None:
    """Each extra asks for what it is for."""
    with zipfile.ZipFile(wheel) as held:
        (place,) = (name for name in held.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(held.read(place))
    offered = set(metadata.get_all("Provides-Extra", [])) - {"dev"}
    if offered != set(ASKED):
        sys.exit(f"extras are {sorted(offered)}, {sorted(ASKED)} are checked")
    asks = [str(line) for line in metadata.get_all("Requires-Dist", [])]
    for extra, package in ASKED.items():
        lines = [line for line in asks if re.match(rf"{package}\b", line)]
        if not any(re.search(rf"extra == .{extra}.$", line) for line in lines):
            sys.exit(f"servax[{extra}] does not ask for {package}: {lines}")
        if any("extra ==" not in line for line in lines):
            sys.exit(f"the base asks for {package}: {lines}")


def check_purify(servax: Path) -> None:
    """The packaged purifier purifies a second of sound, from an empty folder."""
    with tempfile.TemporaryDirectory() as empty:
        sound = Path(empty) / "in.wav"
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            tone = (1_000 if i // 40 % 2 else -1_000 for i in range(16_000))
            file.writeframes(b"".join(s.to_bytes(2, "little", signed=True) for s in tone))
        run(str(servax), "purify", "in.wav", "-o", "out.wav", cwd=Path(empty))
        with wave.open(str(Path(empty) / "out.wav"), "rb") as file:
            made = (file.getnframes(), file.getframerate(), file.getnchannels())
        if made != (16_000, 16_000, 1):
            sys.exit(f"servax purify wrote {made}, expected 16000 samples at 16000 Hz, one channel")


def check_without_torch(folder: Path, wheel: Path) -> None:
    """An exported purifier purifies where there is NumPy, onnxruntime and the wheel alone."""
    network = folder / "purifier.onnx"
    run(sys.executable, "-m", "servax", "export", "ssad-plus-synthetic", "-o", str(network))
    run(sys.executable, "-m", "venv", str(folder / "light"))
    python = str(folder / "light" / "bin" / "python")
    install = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile")
    run(*install, "-c", str(DEV_PINS), "numpy", "onnxruntime")
    run(*install, "--no-deps", str(wheel))
    with tempfile.TemporaryDirectory() as empty:
        said = run(python, "-c", LIGHT, str(network), cwd=Path(empty))
    if said.split() != ["(16000,)", "float32"]:
        sys.exit(f"servax.runtime gave {said.strip()!r} without torch")


def normal(name: str) -> str:
    """Return a package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
