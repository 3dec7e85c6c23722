"""A TorchScript file of ``torch.jit.save``, as a subject.

torch reads it without Python's pickle: its parts are tensors, plain values, and code in
TorchScript, which torch's own interpreter runs. That code can call what torch offers, files
included: name only files that you trust. The pickles of ``torch.save`` stay refused.
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from servax.audit.subjects.fingerprint import of_files
from servax.audit.subjects.own_class import module_system
from servax.audit.subjects.statements import Statements
from servax.errors import CheckpointError
from servax.evaluation.systems import System


class ScriptedModel(nn.Module):
    """Maps inputs to logits by a TorchScript module, whose own attributes it passes on."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script
        for name in ("labels", "sample_rate", "seconds", "inputs"):
            if hasattr(script, name):
                setattr(self, name, getattr(script, name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C) of inputs (B, ...)."""
        logits: torch.Tensor = self.script(x)
        return logits


def is_torchscript(path: Path) -> bool:
    """Return whether a file is an archive with TorchScript code, which a pickle is not."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def load_torchscript_system(path: Path, said: Statements) -> System:
    """Return the model in a TorchScript file.

    Raises:
        CheckpointError: torch cannot read it.
        PathError, SettingError: As for a class of one's own.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather export
            script: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # torch lets through what its readers raise.
        raise CheckpointError(
            path,
            f"torch cannot read it as TorchScript ({type(error).__name__}); expected a file of "
            "torch.jit.save",
        ) from error
    subject = module_system(str(path), ScriptedModel(script), said, source=f"TorchScript {path}")
    return replace(subject, fingerprint=of_files([path]))
