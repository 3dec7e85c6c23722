"""The evaluation card: all that someone needs to judge the figures, and to repeat them."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import version
from typing import Any

import pandas as pd

from servax.attacks import Attack, Foolbox
from servax.audit.plan import Planned
from servax.audit.settings import Audit
from servax.evaluation.suites import TOWARDS
from servax.evaluation.threats import KNOWLEDGE, MEANING
from servax.perturbation import L2

GOAL = "untargeted: any class but the true one"
CHOSEN = f"; {TOWARDS}*: the class in its name"


def evaluation_card(audit: Audit, planned: list[Planned], measures: pd.DataFrame) -> dict[str, Any]:
    """Return the card as a JSON object.

    Args:
        audit: Systems, utterances, settings.
        planned: The stages of the audit.
        measures: One row per threat and system: how far the inputs moved.
    """
    s, subject = audit.settings, audit.subject
    ratio = measures["median_snr_db"].dropna() if "median_snr_db" in measures else pd.Series()
    return {
        "threat model": {
            "goal": GOAL + CHOSEN * any(e.threat and e.threat.towards for e in planned),
            "where": "log-Mel on [0, 1]" if subject.inputs == "logmel" else "waveform on [-1, 1]",
            "norm": "L2 per utterance" if s.budget.ball is L2 else "L-inf per element",
            "knowledge": {name: MEANING[name] for name in KNOWLEDGE if name in _tried(planned)},
        },
        "radius": s.budget.radius,
        "radius in dB": _decibels(audit),
        "norm": s.budget.norm,
        "median SNR of the attacked inputs, dB": (
            {"lowest": round(float(ratio.min()), 2), "highest": round(float(ratio.max()), 2)}
            if len(ratio)
            else None
        ),
        "tier": s.tier,
        **({} if s.gradients == "float32" else {"gradients": f"{s.gradients} (fast mode)"}),
        "attacks": _attacks(planned),
        "model": {
            "name": subject.name,
            "source": subject.source,
            "fingerprint": subject.fingerprint,
            "inputs": subject.inputs,
            "classes": list(subject.labels),
            "outputs": _outputs(audit),
        },
        "systems": {
            system.name: {"source": system.source, "fingerprint": system.fingerprint}
            for system in audit.systems
        },
        "surrogates": {
            name: {"source": other.source, "fingerprint": other.fingerprint}
            for name, other in audit.surrogates.items()
        },
        "utterances": {
            "corpus": audit.dataset.corpus.name,
            "scheme": audit.dataset.corpus.scheme,
            "count": len(audit.dataset),
            "speakers": list(audit.dataset.corpus.speakers),
            "split hash": audit.dataset.split,
            "held-out group": f"{s.selection.held_out} of {s.selection.groups}",
            "recordings hash": audit.dataset.recordings,
        },
        "seeds": {"audit": s.seed, "utterances": s.selection.seed},
        "batch size": s.batch_size,
        "attack libraries": _libraries(planned),
        **dict(audit.origin),
    }


def _outputs(audit: Audit) -> dict[str, str]:
    """Return which class of model and corpus each output was taken for, by its number."""
    spoken = set(audit.dataset.corpus.labels)
    pairs = zip(audit.subject.labels, audit.dataset.names, strict=True)
    return {
        str(index): f"{own} = {name}" if name in spoken else f"{own}, not in the corpus"
        for index, (own, name) in enumerate(pairs)
    }


def _tried(planned: list[Planned]) -> set[str]:
    """Return what the attackers know who were tried; noise is none of them."""
    threats = [each.threat for each in planned if each.kind == "attack" and each.threat]
    return {threat.knowledge for threat in threats if threat.name != "noise"}


def _decibels(audit: Audit) -> float | None:
    """Return the radius in dB of the log-Mel, where that has a meaning."""
    scale, budget = audit.subject.scale, audit.settings.budget
    if scale is None or budget.ball is L2:
        return None
    return round(float(scale.epsilon_db(budget.radius)), 4)


def _libraries(planned: list[Planned]) -> dict[str, str]:
    """Return the version of foolbox where attacks of it were tried."""
    tried = [each.threat.attack for each in planned if each.threat is not None]
    bridged = any(isinstance(attack, Foolbox) for attack in tried)
    return {"foolbox": version("foolbox")} if bridged else {}


def _attacks(planned: list[Planned]) -> dict[str, dict[str, Any]]:
    """Return the settings of each attack, by knowledge and name."""
    told: dict[str, dict[str, Any]] = {}
    for each in planned:
        if each.threat is not None and each.kind == "attack":
            name = f"{each.threat.knowledge} {each.threat.name}"
            told[name] = described(each.threat.attack)
            if each.threat.sweep:
                told[name] |= {"strengths": list(each.threat.sweep)}
            if each.threat.code:
                told[name] |= {"code": each.threat.code}
    return told


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
