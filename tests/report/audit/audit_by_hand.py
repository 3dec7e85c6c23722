"""An audit small enough to be scored by hand: eight utterances, two classes, five speakers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from servax.evaluation.checks import Finding
from servax.evaluation.records import Records
from servax.report.audit import AuditResult, Clip

LABELS = "aaaabbbb"
SPEAKERS = "stuvwstu"
ADAPTIVE, BPDA, OBLIVIOUS = "adaptive", "bpda", "oblivious"

# Which utterances stay right, by system, attack, strength and knowledge.
RIGHT = {
    ("undefended", "none", 0.0, "none"): "11111110",  # UAR 7/8
    ("undefended", "fgsm", 0.01, ADAPTIVE): "11001100",  # 1/2
    ("undefended", "fgsm", 0.02, ADAPTIVE): "01001000",  # 1/4
    ("undefended", "pgd", 0.02, ADAPTIVE): "10000000",  # 1/8; worst case of all: 0
    ("ssad", "none", 0.0, "none"): "11111100",  # 3/4
    ("ssad", "fgsm", 0.01, OBLIVIOUS): "11111100",  # 3/4
    ("ssad", "fgsm", 0.02, OBLIVIOUS): "11011100",  # 5/8
    ("ssad", "pgd", 0.02, OBLIVIOUS): "11101100",  # 5/8; worst oblivious: 1/2
    ("ssad", "pgd-other", 0.02, "transfer"): "11111000",  # 5/8; worst without knowing: 3/8
    ("ssad", "square", 0.02, "black_box"): "11101100",  # 5/8
    ("ssad", "noise", 0.02, "black_box"): "11111100",  # 3/4; worst black box: 5/8
    ("ssad", "pgd", 0.02, BPDA): "11001100",  # 1/2
    ("ssad", "fgsm", 0.01, ADAPTIVE): "11001000",  # 3/8
    ("ssad", "pgd", 0.02, ADAPTIVE): "10001000",  # 1/4
    ("ssad", "apgd-ce", 0.02, ADAPTIVE): "01001000",  # 1/4; worst adaptive, and of all: 1/8
    ("ssad", "pgd", 0.5, ADAPTIVE): "00000000",  # beyond the radius
    ("ssad", "pgd-waveform-30dB", 0.01, ADAPTIVE): "00000000",  # another ball
    ("pgd-at", "none", 0.0, "none"): "11011100",  # 5/8
    ("pgd-at", "pgd", 0.02, OBLIVIOUS): "11010000",  # 3/8
    ("pgd-at", "pgd", 0.02, ADAPTIVE): "10011000",  # 3/8; worst case of all: 1/4
}

CARD: dict[str, Any] = {
    "threat model": {"norm": "L-inf per element", "knowledge": {"adaptive": "knows all"}},
    "radius": 0.02,
    "radius in dB": 1.6,
    "tier": "standard",
    "attacks": {"adaptive pgd": {"class": "PGD", "steps": 50, "random_start": False}},
    "seeds": {"audit": 0, "utterances": 0},
    "utterances": [f"u{i}" for i in range(20)],
    "median SNR of the attacked inputs, dB": float("nan"),
    "command": "servax audit model --defence ssad",
    "commit": "0123abc",
}

FINDINGS = (
    Finding("noise-weaker", "ssad", "passed", "Noise leaves 75.0 %.", {"uar": 0.75}),
    Finding("planted", "ssad", "error", "None of 4 <planted> examples was found.", {"found": 0}),
    Finding("zero-gradients", "ssad", "warning", "9 % of gradients are 0.", {"share": np.nan}),
    Finding("deterministic", "ssad", "not-measured", "Nothing to compare.", {}),
)


def frame(right: Mapping[tuple[str, str, float, str], str] = RIGHT) -> pd.DataFrame:
    other = {"a": "b", "b": "a"}
    parts = []
    for (defence, attack, strength, knowledge), kept in right.items():
        parts.append(
            pd.DataFrame(
                {
                    "utterance": [f"u{i}" for i in range(len(LABELS))],
                    "speaker": list(SPEAKERS),
                    "fold": 1,
                    "seed": 0,
                    "label": list(LABELS),
                    "prediction": [
                        y if k == "1" else other[y] for y, k in zip(LABELS, kept, strict=True)
                    ],
                    "target": "vgg16",
                    "defence": defence,
                    "attack": attack,
                    "strength": strength,
                    "knowledge": knowledge,
                    "gender": "unknown",
                    "corpus": "made-up",
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def make_clip(kind: str = "clean", **changes: Any) -> Clip:
    rng = np.random.default_rng(len(kind))
    settings = {
        "title": "a sound",
        "utterance": "u1",
        "label": "a",
        "system": "ssad",
        "prediction": "b" if kind == "attacked" else "a",
        "kind": kind,
        "sample_rate": 16_000,
        "waveform": rng.uniform(-1.2, 1.2, 400).astype(np.float32),
    }
    return Clip(**(settings | changes))


MEASURES = pd.DataFrame(
    [
        {
            "defence": "ssad",
            "attack": "pgd",
            "knowledge": "adaptive",
            "strength": 0.02,
            "gradients_per_utterance": 31.5,
            "queries_per_utterance": 0.0,
            "median_snr_db": 30.25,
            "lowest_snr_db": np.nan,
            "seconds": 12.0,
        }
    ]
)

REALISABILITY = pd.DataFrame(
    [
        {
            "defence": "ssad",
            "attack": "pgd",
            "knowledge": "adaptive",
            "uar_logmel": 0.25,
            "uar_sound": 0.5,
            "uar_clean_round_trip": 0.625,
            "median_snr_db": 21.0,
            "median_log_mel_error_db": None,
        }
    ]
)


DETECTION = pd.DataFrame(
    [
        {
            "defence": "ssad",
            "attack": "pgd-15",
            "knowledge": "black_box",
            "score": "residual",
            "area": 0.9375,
            "detected_at_5_percent": 0.625,
            "utterances": 6,
        },
        {
            "defence": "ssad",
            "attack": "pgd-15",
            "knowledge": "adaptive",
            "score": "l1",
            "area": None,
            "detected_at_5_percent": None,
            "utterances": 0,
        },
    ]
)


SPEECH = pd.DataFrame(
    [
        ("undefended", "none", "none", 8, None, 1.0, 4.64),
        ("another clip", "none", "none", 8, -3.0, 0.2, 1.1),
        ("ssad", "none", "none", 8, 12.0, 0.75, 2.6),
        ("ssad", "pgd-15", "adaptive", 8, 9.0, 0.629, 1.9),
    ],
    columns=["defence", "attack", "knowledge", "utterances", "snr_db", "stoi", "pesq"],
)
"""Of a model of sound, whatever that of the other tables is."""


def make_result(
    right: Mapping[tuple[str, str, float, str], str] = RIGHT, **changes: Any
) -> AuditResult:
    settings: dict[str, Any] = {
        "records": Records(frame(right), {"classes": ["a", "b"]}),
        "findings": FINDINGS,
        "measures": MEASURES,
        "realisability": REALISABILITY,
        "clips": (make_clip("purified"), make_clip("clean"), make_clip("attacked")),
        "card": CARD,
        "radius": 0.02,
        "fail_under": None,
        "detection": DETECTION,
    }
    return AuditResult(**(settings | changes))
