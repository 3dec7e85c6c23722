"""The evaluation card: all that someone needs to judge the figures, and to repeat them."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import version
from typing import Any

import pandas as pd

from servax.attacks import Attack, Foolbox, RandomNoise
from servax.audit.plan import Planned
from servax.audit.settings import Audit
from servax.evaluation.suites import TOWARDS
from servax.evaluation.systems import System
from servax.evaluation.threats import KNOWLEDGE, MEANING

GOAL = "untargeted: any class but the true one"
NORMS = {
    "linf": "L-inf per element",
    "l2": "L2 per utterance",
    "snr": "L2 per utterance, as a share of its own: a signal-to-noise ratio",
}
"""What a norm measures."""
CHOSEN = f"; {TOWARDS}*: the class in its name"


def evaluation_card(audit: Audit, planned: list[Planned], measures: pd.DataFrame) -> dict[str, Any]:
    """Return the card as a JSON object.

    Args:
        audit: Systems, utterances, settings.
        planned: The stages of the audit.
        measures: One row per threat and system: how far the inputs moved.
    """
    s, subject, corpus = audit.settings, audit.subject, audit.dataset.corpus
    most = s.selection.utterances
    threats = [each.threat for each in planned if each.kind == "attack" and each.threat]
    tried = {each.knowledge for each in threats if not isinstance(each.attack, RandomNoise)}
    ratio = measures["median_snr_db"].dropna() if "median_snr_db" in measures else pd.Series()
    decibels = None  # of a ball that has no meaning in dB
    if subject.scale is not None and s.budget.norm == "linf":
        decibels = round(float(subject.scale.epsilon_db(s.budget.radius)), 4)
    pairs = enumerate(zip(subject.labels, audit.dataset.names, strict=True))
    attacks = {
        f"{each.knowledge} {each.name}": described(each.attack)
        | ({"strengths": list(each.strengths)} if each.sweep else {})
        | ({"code": each.code} if each.code else {})
        for each in threats
    }
    bridged = any(isinstance(each.attack, Foolbox) for each in threats)
    return {
        "threat model": {
            "goal": GOAL + CHOSEN * any(threat.towards for threat in threats),
            "where": "log-Mel on [0, 1]" if subject.inputs == "logmel" else "waveform on [-1, 1]",
            "norm": NORMS[s.budget.norm],
            "knowledge": {name: MEANING[name] for name in KNOWLEDGE if name in tried},
        },
        "radius": s.budget.radius,
        "radius in dB": decibels,
        "norm": s.budget.norm,
        "median SNR of the attacked inputs, dB": (
            {"lowest": round(float(ratio.min()), 2), "highest": round(float(ratio.max()), 2)}
            if len(ratio)
            else None
        ),
        "tier": s.tier,
        **({} if s.gradients == "float32" else {"gradients": f"{s.gradients} (fast mode)"}),
        "attacks": attacks,
        "model": {
            "name": subject.name,
            **_origin(subject),
            "inputs": subject.inputs,
            "classes": list(subject.labels),
            "outputs": {
                str(index): f"{own} = {name}"
                if name in corpus.labels
                else f"{own}, not in the corpus"
                for index, (own, name) in pairs
            },
        },
        "systems": {system.name: _origin(system) for system in audit.systems},
        "surrogates": {name: _origin(other) for name, other in audit.surrogates.items()},
        "utterances": {
            "corpus": corpus.name,
            "scheme": corpus.scheme,
            "count": len(audit.dataset),
            "drawn": f"at most {most}, classes and speakers in equal shares" if most else "all",
            "speakers": list(corpus.speakers),
            "split hash": audit.dataset.split,
            "held-out group": f"{s.selection.held_out} of {s.selection.groups}",
            "recordings hash": audit.dataset.recordings,
        },
        "seeds": {"audit": s.seed, "utterances": s.selection.seed},
        "batch size": s.batch_size,
        "attack libraries": {"foolbox": version("foolbox")} if bridged else {},
        **dict(audit.origin),
    }


def _origin(system: System) -> dict[str, str]:
    return {"source": system.source, "fingerprint": system.fingerprint}


def described(attack: Attack) -> dict[str, Any]:
    """Return the settings of an attack as a JSON object."""
    told: dict[str, Any] = {"class": type(attack).__name__}
    for each in fields(attack):
        value = getattr(attack, each.name)
        if isinstance(value, Attack):
            value = described(value)
        elif isinstance(value, type):
            value = value.__name__
        elif not isinstance(value, str | int | float | bool | None):
            value = list(value) if isinstance(value, tuple) else str(value)
        told[each.name] = value
    return told
