"""The two scales by their names, and a scale again from the settings that were saved with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from servax.errors import SettingError
from servax.features.scale import Scale, ScaleSettings
from servax.features.zscore import ZScore, ZScoreSettings

Scaling = Scale | ZScore
ScaleKind = Literal["window", "z-score"]
SCALES = ("window", "z-score")
"""`window`: one dB window for all Mel bins; `z-score`: each Mel bin by its own spread ([18])."""


def fit_scaling(
    logmels: Iterable[NDArray[np.floating]],
    *,
    kind: ScaleKind = "window",
    window_db: float = 80.0,
) -> Scaling:
    """Return the scale of a kind for log-Mels (M, F) in dB of **training speakers only**.

    Args:
        logmels: The spectrograms, taken one at a time.
        kind: One of `SCALES`.
        window_db: Width of the dB window; `z-score` has none.

    Raises:
        SettingError: `kind` is unknown, there are no spectrograms, or a level is not finite.
    """
    if kind not in SCALES:
        raise SettingError.choice("scale", kind, SCALES)
    if kind == "z-score":
        return ZScore.fit(logmels)
    return Scale.fit(logmels, window_db=window_db)


def make_scale(settings: Mapping[str, Any], *, mels: int) -> Scaling:
    """Return the scale whose settings were saved as ``asdict(scale.settings)``.

    Args:
        settings: Of a `Scale` or of a `ZScore`; their keys tell them apart.
        mels: Mel bins of the front-end that belongs to it.

    Raises:
        SettingError: A setting is outside its rule, or the scale is for other Mel bins.
        TypeError: These are the settings of no scale.
    """
    if "mean" not in settings:
        return Scale(ScaleSettings(**settings))
    found = ZScoreSettings(**settings)
    if len(found.mean) != mels:
        raise SettingError(
            "mean, sd", f"{len(found.mean)} Mel bins", f"the {mels} of the front-end"
        )
    return ZScore(found)
