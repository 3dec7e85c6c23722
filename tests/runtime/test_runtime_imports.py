"""A purifier runs in a process that cannot load torch, or anything but NumPy and onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import servax
from servax.purifier import Purifier

FORBIDDEN = [
    "torch",
    "soundfile",
    "scipy",
    "pandas",
    "librosa",
    "soxr",
    "sklearn",
    "onnx",
    "onnxscript",
    "jsonargparse",
    "safetensors",
    "huggingface_hub",
    "matplotlib",
    "yaml",
    "rich",
    "jinja2",
    "pyarrow",
    "accelerate",
    "transformers",
]

PURIFY = """
import importlib.abc, json, sys

at_start = set(sys.modules)  # what the environment itself loads

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not to be loaded here")

FORBIDDEN = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refuse())
try:
    import torch
except ImportError:
    pass
else:
    raise SystemExit("the proof proves nothing: torch can be loaded")

import numpy as np
import servax.runtime

purifier = servax.runtime.Purifier.load(sys.argv[2], threads=1)
sound = np.load(sys.argv[3])
cleaned = purifier.purify(sound, 16_000)
stream = purifier.stream(16_000)
live = np.concatenate([stream.feed(sound), stream.finish()])
np.savez(sys.argv[4], cleaned=cleaned, live=live)
outside = set()
for name, module in list(sys.modules.items()):
    if name not in at_start and "site-packages" in (getattr(module, "__file__", None) or ""):
        outside.add(name.partition(".")[0])
print(json.dumps(sorted(outside)))
"""


def test_only_numpy_and_onnxruntime_are_loaded(
    exported: tuple[Purifier, Path], noisy_voice: np.ndarray, tmp_path: Path
) -> None:
    purifier, file = exported
    np.save(tmp_path / "sound.npy", noisy_voice)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PURIFY,
            json.dumps(FORBIDDEN),
            str(file),
            str(tmp_path / "sound.npy"),
            str(tmp_path / "out.npz"),
        ],
        cwd=Path(servax.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert {"numpy", "onnxruntime"} <= loaded
    # onnxruntime brings the last ones, where they are installed.
    assert loaded <= {"numpy", "onnxruntime", "flatbuffers", "packaging", "google", "coloredlogs"}
    made = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(made["cleaned"], purifier.purify(noisy_voice, 16_000), atol=1e-4)
    stream = purifier.stream(16_000)
    live = np.concatenate([stream.feed(noisy_voice), stream.finish()])
    np.testing.assert_allclose(made["live"], live, atol=1e-4)


@pytest.mark.parametrize("module", ["servax.runtime", "servax"])
def test_importing_costs_nothing(module: str) -> None:
    code = (
        f"import sys, {module}\nassert not {{'torch', 'onnxruntime', 'scipy'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
