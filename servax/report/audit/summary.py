"""The first paragraph of an audit, for people who decide: no term, no unit, graded by the figures.

How loud a change is stands in words too. Their borders are ours and rough: a noise 40 dB below
speech is masked by it, one at 25 dB is noticed by who listens for it, one at 15 dB by anybody.
"""

from __future__ import annotations

import math

import numpy as np

from servax.report.audit.result import AuditResult
from servax.report.audit.scores import KNOWING, Scores, Standing
from servax.report.audit.threshold import black_box_only
from servax.report.outcomes import UNDEFENDED

__all__ = ["summary"]

LOUDNESS = (
    (40.0, "a change that nobody hears"),
    (25.0, "a change that hardly anyone hears"),
    (15.0, "a faint noise"),
    (-math.inf, "a noise that everyone hears"),
)
"""From which signal-to-noise ratio on, in dB, a change is called what."""
DECIBELS = (
    (1.0, "a change of the spectrogram that nobody would hear"),
    (3.0, "a change of the spectrogram that hardly anyone would hear"),
    (math.inf, "a change of the spectrogram that could be heard"),
)
"""Up to how many dB a change of the log-Mel is called what; no sound need have that log-Mel."""


def summary(result: AuditResult, found: Scores) -> list[str]:
    """Return what was found in plain sentences, what spoils the figures first."""
    shut = black_box_only(result)
    errors = sum(finding.severity == "error" for finding in result.findings)
    checks = "a check" if errors == 1 else f"{errors} checks"
    return [
        *([shut] if shut else []),
        *([f"Do not rely on these figures: {checks} of this audit found an error."] * bool(errors)),
        _model(result, found),
        *_defence(found),
    ]


def _model(result: AuditResult, found: Scores) -> str:
    clean, left = found.clean(UNDEFENDED), found.worst(UNDEFENDED)
    if left is None:
        return "Nobody attacked this model, so nothing is known of its safety."
    if (clean.uar if math.isnan(clean.low) else clean.low) <= found.chance:
        return "This model may be guessing even where nobody attacks it, so look at that first."
    lost, change = 1 - left.uar / clean.uar, _change(result)
    if 100 * left.uar < 0.05:
        return f"This model is easily fooled: {change} turns every answer wrong."
    wrong = f"{change} turns {_of_hundred(lost)} right answers wrong."
    if lost >= 0.5:
        return f"This model is easily fooled: {wrong}"
    if lost >= 0.1:
        return f"This model can be fooled: {wrong}"
    if 100 * lost >= 0.05:
        return f"This model was hard to fool with the attacks that were tried: {wrong}"
    return (
        "None of the attacks that were tried fooled this model; an attack that nobody tried may "
        "do so."
    )


def _defence(found: Scores) -> list[str]:
    """Return what the best defence is worth against everyone who attacked it."""
    kept = {name: found.worst(name) for name in found.defences}
    left = {name: standing for name, standing in kept.items() if standing is not None}
    bare = found.worst(UNDEFENDED)
    if not left or bare is None:
        return []
    best = max(left, key=lambda name: left[name].uar)
    several = f"The best of its {len(left)} defences, {best},"
    what = several if len(left) > 1 else f"The defence {best}"
    known = found.worst(best, KNOWING) is not None
    who = "an attacker who knows it" if known else "attackers who can only ask for answers"
    if 100 * (left[best].uar - bare.uar) < 1:
        return [f"{what} does not protect it from {who}."]
    shares = [_kept(left[best], found.clean(best)), _kept(bare, found.clean(UNDEFENDED))]
    return [
        f"{what} helps against {who}: it keeps {_of_hundred(shares[0])} right answers, the model "
        f"alone {_of_hundred(shares[1])}."
    ]


def _kept(left: Standing, clean: Standing) -> float:
    return left.uar / clean.uar if clean.uar else 0.0


def _of_hundred(share: float) -> str:
    """Return a share as people say it: ``37 of 100``."""
    count = round(100 * share)
    return f"{count} of 100" if count or not share else "fewer than 1 of 100"


def _change(result: AuditResult) -> str:
    """Return how loud the change is that fools, in words."""
    ratio = _signal_to_noise(result)
    if math.isfinite(ratio):
        return next(words for least, words in LOUDNESS if ratio >= least)
    decibels = result.decibels(result.radius)
    if math.isfinite(decibels):
        return next(words for most, words in DECIBELS if decibels <= most)
    return "a small change of the input"


def _signal_to_noise(result: AuditResult) -> float:
    """Return the median ratio of speech to change in the attacked sounds, in dB, or ``nan``."""
    model, table = result.card.get("model"), result.measures
    on_sound = isinstance(model, dict) and model.get("inputs") == "waveform"
    # What was made into sound is another attack than the one whose harm is told.
    if not on_sound or "median_snr_db" not in table:
        return math.nan
    known = table[table["knowledge"].isin(KNOWING)]["median_snr_db"].dropna().astype(float)
    return float(np.median(known)) if len(known) else math.nan
