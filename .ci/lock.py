"""Writes requirements.txt, requirements-dev.txt and deploy/requirements.txt, with torch pinned."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

TORCH = "torch==2.13.0"
FLAGS = [
    "--strip-extras",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--allow-unsafe",
    "--quiet",
]
BASE_TITLE = "# The base install, pinned. Written by `make lock`; edit pyproject.toml instead.\n"
LIGHT = {"jsonargparse", "numpy", "pyyaml", "rich", "soundfile", "soxr"}
"""Of the base install, what ``servax purify`` and ``servax serve --purify-only`` load."""
LIGHT_TITLE = "# What purifies and serves without torch, pinned. Written by `make lock`.\n"
DEV_TITLE = "# The base install and everything the checks need, pinned. Written by `make lock`.\n"


def lock(wanted: list[str], target: Path, title: str) -> None:
    """Resolve `wanted` into `target`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "wanted.in"
        source.write_text("\n".join(wanted) + "\n")
        command = [sys.executable, "-m", "piptools", "compile", *FLAGS, "-o", str(target)]
        subprocess.run([*command, str(source)], check=True)
    # A local suffix such as +cpu names a build, not a version: another machine has another build.
    target.write_text(title + target.read_text().replace("+cpu", ""))


project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
base = [name for name in project["dependencies"] if not name.startswith("torch>")] + [TORCH]
lock(base, Path("requirements.txt"), BASE_TITLE)
pinned = "-c " + str(Path("requirements.txt").resolve())
lock(
    [pinned, *base, *project["optional-dependencies"]["dev"]],
    Path("requirements-dev.txt"),
    DEV_TITLE,
)
extras = project["optional-dependencies"]
light = [name for name in base if re.split(r"\W", name)[0] in LIGHT]
runtime = next(name for name in extras["onnx"] if name.startswith("onnxruntime"))
pinned = "-c " + str(Path("requirements-dev.txt").resolve())
lock([pinned, *light, runtime, *extras["serve"]], Path("deploy/requirements.txt"), LIGHT_TITLE)
