"""Picks the utterance of Figure 1: read rightly, turned by the attack, put right by P."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import nn

from servax.errors import ServaxError
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.suites import AttackGrid
from servax.features import Dataset
from servax.report import Examples


def choose_example(
    frame: pd.DataFrame,
    target: nn.Module,
    purifier: nn.Module,
    test: Dataset,
    grid: AttackGrid,
    *,
    defence: str,
    hop_seconds: float,
) -> Examples:
    """Return the spectrograms of one test utterance under the longest PGD of the grid.

    The choice is the first utterance that shows what the figure is about; when there is none, the
    first that the undefended target reads rightly, and its title says what became of it.

    Raises:
        ServaxError: The test part is empty.
    """
    if not len(test):
        raise ServaxError("the test part has no utterance to draw an example from.")
    clean = _predictions(frame, UNDEFENDED, "none", 0.0)
    attacked = _predictions(frame, UNDEFENDED, "pgd", float(grid.steps))
    purified = _predictions(frame, defence, "pgd", float(grid.steps))
    label = test.corpus.utterances.set_index("utterance")["label"]
    names = list(label.index)
    right = [n for n in names if clean[n] == label[n]]
    shown = [n for n in right if attacked[n] != label[n] and purified[n] == label[n]]
    name = (shown or right or names)[0]
    batch = test.batch(np.array([names.index(name)]), next(target.parameters()).device)
    adversarial = grid.pgd(grid.steps)(target, batch.x, batch.y)
    original, moved, cleaned = (
        test.scale.inverse(x.detach()).cpu().numpy()[0, 0]
        for x in (batch.x, adversarial, purifier(adversarial))
    )
    return Examples(
        original=original,
        attacked=moved,
        purified=cleaned,
        hop_seconds=hop_seconds,
        title=(
            f"{name}: {label[name]}, read as {clean[name]}; after PGD-{grid.steps} as "
            f"{attacked[name]}; purified ({defence}) as {purified[name]}"
        ),
    )


def _predictions(frame: pd.DataFrame, defence: str, attack: str, strength: float) -> pd.Series[str]:
    chosen = frame[
        (frame["defence"] == defence)
        & (frame["attack"] == attack)
        & (frame["strength"] == strength)
        & frame["knowledge"].isin(("none", "oblivious"))
    ]
    return chosen.set_index("utterance")["prediction"]
