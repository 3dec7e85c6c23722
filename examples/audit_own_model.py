"""Audit a model of your own, from the command line or from Python.

    servax audit audit_own_model:Loudness --corpus synthetic --tier smoke   # in this folder
    python examples/audit_own_model.py --corpus synthetic --utterances 8

`Loudness` stands for your recogniser: any torch.nn.Module from sound (B, T) or log-Mel (B, 1, M, F)
to logits (B, C). What an audit must know of it are three attributes; weights are read in
`__init__`, from safetensors and never from a pickle. The model must not have heard the speakers
that it is audited on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from servax.audit import Audit, AuditSettings, run_audit
from servax.corpora import Selection
from servax.evaluation.loading import load_system
from servax.evaluation.threats import Budget
from servax.experiments.provenance import provenance


class Loudness(torch.nn.Module):
    """Hears how loud eight bands are; untrained, so that its answers mean nothing."""

    inputs, sample_rate = "waveform", 16_000
    labels = ("angry", "happy", "neutral", "sad")

    def __init__(self) -> None:
        super().__init__()
        self.bands = torch.nn.Conv1d(1, 8, 400, stride=160)
        self.head = torch.nn.Linear(8, len(self.labels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 4) of waveforms (B, T) on [-1, 1]."""
        power = self.bands(x.unsqueeze(1)).square().mean(2)  # (B, 8)
        return self.head((power + 1e-5).log())


def main() -> None:
    """Audit it on a few utterances and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", default="synthetic", help="name or manifest")
    parser.add_argument("--utterances", type=int, default=16, help="how many are heard")
    parser.add_argument("--out", default="runs/audit-own", help="folder of the audit")
    given = parser.parse_args()

    model = load_system(f"{Path(__file__).stem}:Loudness")
    settings = AuditSettings(
        selection=Selection(corpus=given.corpus, utterances=given.utterances),
        tier="smoke",
        budget=Budget(radius=0.002, bounds=model.bounds),  # -54 dBFS
        knowledge=("black_box", "adaptive"),
    )
    told = provenance(f"audit_own_model.py --corpus {given.corpus}")
    audit = Audit.of(
        settings, model, defences=(), surrogates=(), folder=Path(given.out), origin=told
    )
    audited = run_audit(audit, fail_under=30)
    print("passed" if audited.passed else "failed: below 30 % UAR, or a check found an error")
    print(audited.paths.html)


if __name__ == "__main__":
    main()
