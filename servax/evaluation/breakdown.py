"""Who is right, at which feeling, and where a wrong answer goes (pure NumPy).

All of it follows from one count: how many utterances of a class each group has, and how many of
them came out right. A group is a speaker, a gender, or anything else with one name per utterance.

Predictions are (N,), or (K, N) for K conditions whose measures are averaged (the "mean" columns of
the paper's Table 1). As in `servax.evaluation.metrics`, a class that a group does not hold does not
count in the group's UAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servax.errors import ShapeError
from servax.evaluation import metrics

__all__ = ["Flow", "Tally", "flows", "recall_by_class", "tally", "uar_by_group"]


@dataclass(frozen=True, eq=False)
class Tally:
    """Utterances and right answers by group and class."""

    groups: NDArray[np.generic]
    """(G,) names of the groups, sorted."""
    classes: NDArray[np.generic]
    """(C,) classes that the labels hold, sorted."""
    totals: NDArray[np.intp]
    """(G, C) utterances."""
    hits: NDArray[np.intp]
    """(K, G, C) of them right, by condition."""


@dataclass(frozen=True)
class Flow:
    """Utterances of one class that were taken for another."""

    truth: str
    """True class."""
    predicted: str
    """Predicted class, never the true one."""
    count: int
    """How many utterances."""
    share: float
    """Share of the true class, 0 … 1; ``nan`` when no utterance has that class."""


def tally(labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike) -> Tally:
    """Count utterances and right answers by group and class.

    Args:
        labels: (N,) true classes.
        predictions: (N,) or (K, N) predicted classes.
        groups: (N,) name of each utterance's group.

    Raises:
        ShapeError: lengths differ, or `predictions` has another number of dimensions.
        SettingError: see `servax.evaluation.metrics.validate`.
    """
    given = np.asarray(predictions)
    if given.ndim not in (1, 2) or given.shape[0] == 0:
        raise ShapeError("predictions", given.shape, "(N,) or (K, N): one entry per utterance")
    cells = np.atleast_2d(given)
    truth = metrics.validate(labels, predictions=cells[0])[0]
    right = np.stack([_right(labels, cell) for cell in cells])
    who = np.asarray(groups)
    if who.shape != truth.shape:
        raise ShapeError("groups", who.shape, f"{truth.shape}, the shape of labels")
    names, group = np.unique(who, return_inverse=True)
    classes, code = np.unique(truth, return_inverse=True)
    place = group * classes.size + code
    shape, places = (names.size, classes.size), names.size * classes.size
    hits = [np.bincount(place[row], minlength=places).reshape(shape) for row in right]
    totals = np.bincount(place, minlength=places).reshape(shape)
    return Tally(names, classes, totals, np.stack(hits))


def _right(labels: ArrayLike, predictions: ArrayLike) -> NDArray[np.bool_]:
    truth, predicted = metrics.validate(labels, predictions=predictions)
    return np.asarray(truth == predicted)


def uar_by_group(labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike) -> dict[str, float]:
    """Return each group's UAR over the classes that it holds, averaged over the K conditions.

    Args:
        labels: (N,) true classes.
        predictions: (N,) or (K, N) predicted classes.
        groups: (N,) name of each utterance's group.

    Raises:
        ShapeError, SettingError: see `tally`.

    Example:
        >>> uar_by_group([0, 1, 1, 0], [0, 0, 1, 1], ["ann", "ann", "ann", "bob"])
        {'ann': 0.75, 'bob': 0.0}
    """
    counted = tally(labels, predictions, groups)
    held = counted.totals > 0  # (G, C)
    recalls = counted.hits / np.maximum(counted.totals, 1)  # (K, G, C); 0 where nothing is held
    uars = recalls.sum(axis=2).mean(axis=0) / held.sum(axis=1)  # (G,)
    return {str(name): float(uar) for name, uar in zip(counted.groups, uars, strict=True)}


def recall_by_class(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """Return the recall of each class in `labels`, averaged over the K conditions.

    Raises:
        ShapeError, SettingError: see `tally`.
    """
    counted = tally(labels, predictions, np.zeros(np.shape(labels)))
    recalls = counted.hits[:, 0].mean(axis=0) / counted.totals[0]  # (C,)
    return {str(name): float(value) for name, value in zip(counted.classes, recalls, strict=True)}


def flows(
    labels: ArrayLike, predictions: ArrayLike, classes: Sequence[str] | Sequence[int]
) -> tuple[Flow, ...]:
    """Return where wrong answers go, the largest share of a true class first.

    Shares rank, not counts, since each class weighs the same in the UAR too; equal shares go by
    count, then in the order of `classes`.

    Args:
        labels: (N,) true classes.
        predictions: (N,) predicted classes.
        classes: (C,) all classes.

    Returns:
        C · (C − 1) flows, those with no utterance last.

    Raises:
        ShapeError, SettingError: see `servax.evaluation.metrics.confusion`.
    """
    counts = metrics.confusion(labels, predictions, classes)  # (C, C)
    totals = counts.sum(axis=1)
    found = [
        Flow(
            truth=str(classes[row]),
            predicted=str(classes[column]),
            count=int(counts[row, column]),
            share=float(counts[row, column] / totals[row]) if totals[row] else float("nan"),
        )
        for row, column in np.ndindex(*counts.shape)
        if row != column
    ]
    return tuple(sorted(found, key=lambda flow: (-np.nan_to_num(flow.share), -flow.count)))
