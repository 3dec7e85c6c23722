"""What ``--fail-under`` asks of an audit, and whether its systems keep it."""

from __future__ import annotations

import math

from servax.errors import SettingError
from servax.report.audit.result import MEASURES, AuditResult, Measure
from servax.report.audit.scores import Scores
from servax.report.predictions import UNDEFENDED
from servax.report.tables import percent_sign

__all__ = ["below", "black_box_only", "judged", "parsed", "passes", "untrusted", "wanted"]

_SLACK = 1e-11


def parsed(text: str) -> tuple[float, Measure]:
    """Return number and measure of an option: ``40``, ``lower:40`` or ``lost:10``.

    Raises:
        SettingError: The measure is unknown, or the number is no percentage.
    """
    measure, colon, number = text.rpartition(":")
    measure = measure if colon else "uar"
    try:
        percent = float(number)
    except ValueError:
        percent = math.nan
    if measure not in MEASURES or not 0 <= percent <= 100:
        raise SettingError(
            "fail_under",
            percent if measure == "uar" and math.isfinite(percent) else text,
            "a UAR in percent, from 0 to 100 (40), lower:40 for the lower end of its interval, or "
            "lost:10 for the points of the clean UAR that may be lost",
        )
    return percent, measure


def judged(found: Scores) -> tuple[str, ...]:
    """Return the systems that `fail_under` speaks of: the defences, or else the bare model."""
    return found.defences or (UNDEFENDED,)


def wanted(result: AuditResult) -> str:
    """Return what is asked of each judged system: "to keep at least 40.0 % UAR in …"."""
    asked = result.fail_under or 0.0
    if result.judged_by == "lost":
        return f"to lose at most {asked:.1f} points of its clean UAR in the worst case"
    end = " at the lower end of its 95 % interval" if result.judged_by == "lower" else ""
    return f"to keep at least {percent_sign(asked)} UAR in the worst case{end}"


def below(found: Scores) -> dict[str, str]:
    """Return the judged systems that keep less than `fail_under` asks, and what they keep."""
    if found.result.fail_under is None:
        return {}
    told = {name: _short(found, name, found.result.fail_under / 100) for name in judged(found)}
    return {name: kept for name, kept in told.items() if kept}


def _short(found: Scores, name: str, asked: float) -> str:
    """Return what a system keeps where that is too little, else nothing."""
    clean, measure = found.clean(name), found.result.judged_by
    # What nobody attacked keeps what it has on clean input: nothing shows less.
    left = found.worst(name) or clean
    if measure == "lost":
        lost = clean.uar - left.uar
        return f"loses {100 * lost:.1f} points" if lost > asked + _SLACK else ""
    kept = left.low if measure == "lower" else left.uar
    if math.isnan(kept):
        return "has no interval"
    return f"keeps {percent_sign(100 * kept)}" if kept < asked - _SLACK else ""


def black_box_only(result: AuditResult) -> str | None:
    """Return the sentence that no white-box attack was possible; None where one was."""
    for finding in result.findings:
        if finding.check == "white-box" and finding.statement.startswith("Black box only"):
            return finding.statement
    return None


def untrusted(result: AuditResult) -> list[str]:
    """Return why the figures cannot be trusted, or where one is asked for, cannot pass."""
    errors = sum(finding.severity == "error" for finding in result.findings)
    reasons = [f"checks found {errors} error{'s' * (errors > 1)}"] if errors else []
    if result.fail_under is not None and black_box_only(result):
        reasons.append("no white-box attack was possible")
    return reasons


def passes(found: Scores) -> bool:
    """Return whether the figures can be trusted and every judged system keeps what is asked.

    It passes when no check found an error, white-box attacks were possible, and every defence (the
    bare model, where there is none) keeps what `fail_under` asks in the worst case over all attacks
    within the radius.
    """
    return not untrusted(found.result) and not below(found)
