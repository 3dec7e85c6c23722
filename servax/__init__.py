"""servax: vaccinate speech emotion recognition against adversarial attacks, and audit it.

Names are loaded when they are first used, so that ``import servax`` costs next to nothing and the
command line answers ``--help`` without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servax import (
        attacks,
        corpora,
        defences,
        evaluation,
        features,
        models,
        pretrained,
        purifier,
        recognition,
        report,
    )
    from servax.defences import Defended
    from servax.errors import ServaxError
    from servax.evaluation import metrics
    from servax.features import FrontEnd, LogMel, Scale
    from servax.models import WaveformClassifier
    from servax.purifier import Purifier, SoundPurifier, protected_pipeline
    from servax.recognition import EncoderRecogniser, Recogniser

__version__ = "0.2.0"

_HOMES = {
    "Defended": "servax.defences",
    "EncoderRecogniser": "servax.recognition",
    "FrontEnd": "servax.features",
    "LogMel": "servax.features",
    "Purifier": "servax.purifier",
    "Recogniser": "servax.recognition",
    "Scale": "servax.features",
    "ServaxError": "servax.errors",
    "SoundPurifier": "servax.purifier",
    "WaveformClassifier": "servax.models",
    "metrics": "servax.evaluation",
    "protected_pipeline": "servax.purifier",
}
_PACKAGES = (
    "attacks",
    "corpora",
    "defences",
    "evaluation",
    "features",
    "models",
    "pretrained",
    "purifier",
    "recognition",
    "report",
)

__all__ = [
    "Defended",
    "EncoderRecogniser",
    "FrontEnd",
    "LogMel",
    "Purifier",
    "Recogniser",
    "Scale",
    "ServaxError",
    "SoundPurifier",
    "WaveformClassifier",
    "attacks",
    "corpora",
    "defences",
    "evaluation",
    "features",
    "metrics",
    "models",
    "pretrained",
    "protected_pipeline",
    "purifier",
    "recognition",
    "report",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"servax.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'servax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
