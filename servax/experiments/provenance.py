"""Where figures come from: code, machine and versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import servax

PACKAGES = ("torch", "numpy", "scipy", "soundfile", "soxr")


def provenance(command: str) -> Mapping[str, Any]:
    """Return the part of a table's provenance that settings do not decide."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {
        "servax": servax.__version__,
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": versions,
    }


def commit() -> str:
    """Return the commit of the checkout this code runs from, with ``+changes`` when it is dirty."""
    git, root = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (root / ".git").exists():
        return "not a git checkout"

    def said(*arguments: str) -> str:
        command = [git, "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        head = said("rev-parse", "--short=12", "HEAD")
        changed = said("status", "--porcelain", "--", "servax", "recipes")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def machine() -> str:
    """Return the processor or GPU, the cores and threads of this machine.

    The instructions that torch uses stand beside the processor: clouds sell several generations
    under one name, one of them four times as fast as another.
    """
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    processor = f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
