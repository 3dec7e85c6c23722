"""The ten lines that make models of other libraries auditable, on stand-ins of the same calls.

Signatures are those of speechbrain's `foreign_class` and the model's `custom_interface.py`, of
FunASR's `AutoModel` and `Emotion2vec.extract_features`, and of `audonnx.load` and `Model.__call__`.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import ROOT, blocks
from torch import Tensor, nn

from servax.evaluation.loading import load_system

CLASSES = {"from_speechbrain": 4, "from_funasr": 9, "from_audonnx": 4}
SHOWN = {
    block.file.removesuffix(".py"): block.text
    for block in blocks(ROOT / "docs" / "audit.md")
    if block.file and block.file.startswith("from_")
}


class Frames(nn.Module):
    """Ten numbers for each 20 ms; frozen, it works without gradients as SpeechBrain's does."""

    def __init__(self) -> None:
        super().__init__()
        self.freeze = True
        self.layer = nn.Conv1d(1, 10, 400, 320)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.freeze and torch.is_grad_enabled()):
            return self.layer(x.unsqueeze(1)).square().transpose(1, 2)


class SpeechBrainClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mods = nn.ModuleDict({"wav2vec2": Frames(), "output_mlp": nn.Linear(10, 4)})

    def encode_batch(
        self, wavs: Tensor, wav_lens: Tensor | None = None, normalize: bool = False
    ) -> Tensor:
        return self.mods["wav2vec2"](wavs.float()).mean(1)


def foreign_class(
    source: str,
    hparams_file: str = "hyperparams.yaml",
    pymodule_file: str = "custom.py",
    classname: str = "CustomInterface",
    **more: Any,
) -> nn.Module:
    assert (pymodule_file, classname) == ("custom_interface.py", "CustomEncoderWav2vec2Classifier")
    return SpeechBrainClassifier()


class Emotion2vec(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frames, self.proj = Frames(), nn.Linear(10, 9)
        self.frames.freeze = False

    def extract_features(
        self,
        source: Tensor,
        mode: str | None = None,
        padding_mask: Tensor | None = None,
        mask: bool = False,
        remove_extra_tokens: bool = True,
    ) -> dict[str, Any]:
        # FunASR hands in what is normalised already.
        torch.testing.assert_close(source.mean(1), torch.zeros(len(source)), atol=1e-4, rtol=0)
        return {"x": self.frames(source), "padding_mask": padding_mask}


class AutoModel:
    def __init__(self, **settings: Any) -> None:
        assert settings["model"].startswith("iic/emotion2vec_plus")
        self.model = Emotion2vec()


class AudonnxModel:
    def __call__(
        self, signal: np.ndarray, sampling_rate: int, *, outputs: Any = None
    ) -> np.ndarray:
        assert (signal.ndim, sampling_rate, outputs) == (1, 16_000, "logits")
        return np.stack([signal[:4]])  # (1, C)


@pytest.fixture(autouse=True)
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    parts = {
        "speechbrain": {},
        "speechbrain.inference": {},
        "speechbrain.inference.interfaces": {"foreign_class": foreign_class},
        "funasr": {"AutoModel": AutoModel},
        "audonnx": {"load": lambda root, **more: AudonnxModel()},
    }
    for name, contents in parts.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    for name, text in SHOWN.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    yield
    for name in SHOWN:
        sys.modules.pop(name, None)


def test_each_takes_at_most_ten_lines() -> None:
    assert set(SHOWN) == set(CLASSES)
    for text in SHOWN.values():
        assert sum(bool(line.strip()) for line in text.splitlines()) <= 10


@pytest.mark.parametrize("name", CLASSES)
def test_they_are_subjects_of_an_audit(name: str) -> None:
    made = "emotions" if name == "from_speechbrain" else "Emotions"
    subject = load_system(f"{name}:{made}")
    assert (subject.inputs, subject.sample_rate) == ("waveform", 16_000)
    assert len(subject.labels) == CLASSES[name]
    assert subject.gradients == (name != "from_audonnx")
    x = 0.1 * torch.randn(3, 48_000)
    together = subject.model(x)
    assert together.shape == (3, CLASSES[name])
    apart = torch.cat([subject.model(row.unsqueeze(0)) for row in x])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)
    if subject.gradients:
        leaf = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(subject.model(leaf).sum(), leaf)
        assert bool((gradient.abs().flatten(1).sum(1) > 0).all())
