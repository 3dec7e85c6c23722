"""Parts of a table of records that checks compare: systems, conditions, utterances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from servax.evaluation.metrics import uar
from servax.evaluation.protocol import UNDEFENDED
from servax.evaluation.records import validate

UTTERANCE = ["utterance", "fold", "seed"]
"""What makes two rows of one system speak of the same utterance."""
WHITE_BOX = ("adaptive", "bpda")
"""Knowledge of an attacker who goes through the defence."""
POINT = 0.01
"""A point of UAR or accuracy."""


def systems(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name and the rows of each system; the target is named where there are several.

    Raises:
        ServaxError, SettingError: `frame` is no valid table of records.
    """
    typed = validate(frame)
    several = len(typed["target"].unique()) > 1
    for (target, defence), rows in typed.groupby(["target", "defence"], sort=True):
        yield (f"{defence} ({target})" if several else str(defence)), rows


def white_box(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of attackers who know the system.

    Nothing stands before the bare target, so its oblivious attack is a white-box one.
    """
    bare = (rows["defence"] == UNDEFENDED) & (rows["knowledge"] == "oblivious")
    return rows[rows["knowledge"].isin(WHITE_BOX) | bare]


def at(rows: pd.DataFrame, attack: str, strength: float) -> pd.DataFrame:
    """Return the rows of one attack at one strength."""
    return rows[(rows["attack"] == attack) & np.isclose(rows["strength"], strength, rtol=1e-6)]


def strengths(rows: pd.DataFrame, attack: str) -> list[float]:
    """Return the strengths of one attack, rising."""
    return sorted(float(value) for value in rows.loc[rows["attack"] == attack, "strength"].unique())


def score(rows: pd.DataFrame) -> float:
    """Return the UAR of rows."""
    return uar(rows["label"].to_numpy(object), rows["prediction"].to_numpy(object))


def broken(rows: pd.DataFrame) -> set[tuple[Any, ...]]:
    """Return the utterances with a wrong prediction, as tuples of `UTTERANCE`."""
    wrong = rows[rows["prediction"] != rows["label"]]
    return set(wrong[UTTERANCE].itertuples(index=False, name=None))


def one_utterance(rows: pd.DataFrame) -> float:
    """Return by how much the UAR moves, at most, when one utterance changes sides."""
    counts = rows["label"].value_counts()
    return float(1.0 / (len(counts) * counts.min()))


@dataclass(frozen=True)
class Pair:
    """UARs of two conditions of one system on the utterances that both hold."""

    first: float
    """UAR of the first condition."""
    second: float
    """UAR of the second condition."""
    tolerance: float
    """What one utterance is worth, with room for rounding."""
    utterances: int
    """How many both hold."""


def pair(first: pd.DataFrame, second: pd.DataFrame) -> Pair | None:
    """Return the UARs of two conditions, or None where they share no utterance."""
    here, there = (_only(a, b) for a, b in ((first, second), (second, first)))
    if here.empty:
        return None
    return Pair(score(here), score(there), one_utterance(here) + 1e-9, len(here))


def _only(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    index = pd.MultiIndex.from_frame(rows[UTTERANCE])
    return rows[index.isin(pd.MultiIndex.from_frame(others[UTTERANCE]))]


def attacks(rows: pd.DataFrame, *, without: Sequence[str] = ()) -> list[str]:
    """Return the names of the attacks in rows, sorted, without ``none`` and those given."""
    return sorted({str(name) for name in rows["attack"].unique()} - {"none", *without})
