"""A purifier runs in a process that cannot load torch, or anything but NumPy and onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import servax
from servax import audio, runtime
from servax.purifier import Purifier
from servax.purifier.files import purify_file
from servax.purifier.plans import FileJob

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


COMMAND = """
import sys
from servax.cli import main
source, target, purifier = sys.argv[1:]
assert main(["purify", source, "-o", target, "--purifier", purifier]) == 0
assert not {"torch", "pandas", "scipy", "huggingface_hub"} & set(sys.modules)
"""


def test_the_command_purifies_by_an_exported_file_without_torch(
    exported: tuple[Purifier, Path], noisy_voice: np.ndarray, tmp_path: Path
) -> None:
    purifier, file = exported
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    audio.write(source, noisy_voice, 16_000, subtype="FLOAT")
    command = [sys.executable, "-c", COMMAND, str(source), str(target), str(file)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    expected = np.clip(purifier.purify(noisy_voice, 16_000), -1.0, 1.0)
    np.testing.assert_allclose(audio.read(target), expected, atol=2 * 2.0**-15 + 1e-4)
    np.save(tmp_path / "in.npy", np.zeros((64, 50), dtype=np.float32))
    job = FileJob(str(tmp_path / "in.npy"), str(tmp_path / "out.npy"))
    told = purify_file(runtime.Purifier.load(file), job).sentence
    assert told.endswith("in.npy: is a log-Mel, and this purifier takes sound alone.")


def test_the_command_adds_noise_and_filters_it_without_torch(
    noisy_voice: np.ndarray, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.wav", tmp_path / "out.wav"
    audio.write(source, noisy_voice, 16_000, subtype="FLOAT")
    command = [sys.executable, "-c", COMMAND, str(source), str(target), "noise-wiener:20"]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    changed = np.linalg.norm(audio.read(target) - noisy_voice) / np.linalg.norm(noisy_voice)
    assert 0.03 < changed < 0.2  # the noise has a tenth of the level of the voice


@pytest.mark.parametrize("module", ["servax.runtime", "servax"])
def test_importing_costs_nothing(module: str) -> None:
    code = (
        f"import sys, {module}\nassert not {{'torch', 'onnxruntime', 'scipy'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
