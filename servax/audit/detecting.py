"""Whether a defence's front notices an attack: its detector on clean and on attacked inputs.

Clean inputs are all utterances, so that the rate of false alarms is the one a user meets. Attacked
ones are those that an attack moved: an utterance that it left alone is not attacked. The attacks
are made against the classifier only, and do not try to pass the detector as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from servax.audit.settings import Audit
from servax.defences import Detector, Score
from servax.evaluation.engine import reseed
from servax.evaluation.metrics import detected_at, roc_area
from servax.evaluation.systems import System
from servax.evaluation.threats import Threat

SCORES: tuple[Score, ...] = ("residual", "l1")
FALSE_POSITIVES = 0.05
"""Share of clean inputs that may be flagged."""


def detections(
    audit: Audit,
    system: System,
    made: Sequence[tuple[Threat, Tensor]],
    *,
    tick: Callable[[], None],
) -> list[dict[str, Any]]:
    """Return how well the front of a system tells attacked inputs, a row per threat and score.

    Args:
        audit: Systems, utterances, settings.
        system: One with a front, and not random: draws would move clean inputs as well.
        made: Each threat with the inputs (N, ...) that it made.
        tick: Called once for the clean inputs, and once per threat.

    Returns:
        `defence`, `attack`, `knowledge`, `score`, `area` under the curve, `detected_at_5_percent`
        (share of attacked inputs that are flagged where 5 % of clean ones are), both none where
        no utterance was moved, and `utterances`, which were.
    """
    size, x = audit.settings.batch_size, audit.dataset.x
    front: nn.Module = system.front  # type: ignore[assignment]
    detectors = {score: Detector(front, audit.subject.model, score=score) for score in SCORES}
    reseed(system, audit.settings.seed, "detector")
    clean = _scores(detectors, x, size)
    tick()
    told = []
    for threat, inputs in made:
        moved = (inputs != x).flatten(1).any(dim=1)
        attacked = _scores(detectors, inputs[moved], size) if moved.any() else {}
        for score in SCORES:
            both = (clean[score], attacked[score]) if attacked else None
            told.append(
                {
                    "defence": system.name,
                    "attack": threat.name,
                    "knowledge": threat.knowledge,
                    "score": score,
                    "area": both and roc_area(*both),
                    "detected_at_5_percent": both and detected_at(*both, FALSE_POSITIVES),
                    "utterances": int(moved.sum()),
                }
            )
        tick()
    return told


@torch.no_grad()
def _scores(detectors: Mapping[Score, Detector], x: Tensor, size: int) -> dict[Score, Tensor]:
    """Return the scores (N,) of inputs (N, ...) by each detector."""
    return {
        score: torch.cat([detector(part) for part in torch.split(x, size)])
        for score, detector in detectors.items()
    }
