"""What is true of predictions: recalls, and the worth of a protection (pure NumPy).

Conventions
-----------
`labels` and every prediction are 1-D sequences of class names (str) or of class numbers (int),
one entry per utterance, all of one length N >= 1 and all of one kind. Values are shares in
[0, 1], except the protection efficacy, which is negative when the defence adds harm.

Three words name whose predictions are meant: *clean* is the undefended target on clean input,
*attacked* the undefended target on attacked input, *protected* the defended target on attacked
input.

A share of nothing is ``nan``, never 0 and never an error: a fold may hold no clean-correct
utterance. An empty input is an error: there a caller has selected the wrong rows.

A class that is absent from `labels` does not count in the UAR, even when it is predicted
(as in scikit-learn's ``balanced_accuracy_score``, and unlike its ``recall_score``, which counts a
recall of 0 for it).

Source: Su & Lee, Interspeech 2022, equations 12 and 13. The paper's equation 13 can be read in
several ways; see `recovery_rate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servax.errors import SettingError, ShapeError

__all__ = [
    "confusion",
    "harm_rate",
    "protection_efficacy",
    "recalls",
    "recovery_rate",
    "uar",
    "validate",
    "weighted_accuracy",
]

_KINDS = {"U": "class names", "i": "class numbers", "u": "class numbers", "b": "class numbers"}


def _column(name: str, values: ArrayLike) -> NDArray[np.generic]:
    """Return `values` as a 1-D array of str or int; `name` is used in the refusal."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise SettingError(name, values, "(N,): one entry per utterance") from None
    if array.ndim != 1:
        raise ShapeError(name, array.shape, "(N,): one entry per utterance")
    if array.size == 0:
        raise SettingError(name, [], "at least one utterance")
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array):
        array = array.astype(np.str_)
    if array.dtype.kind not in _KINDS:
        raise SettingError(
            f"the type of {name}", array.dtype.name, "class names (str) or class numbers (int)"
        )
    return array


def validate(labels: ArrayLike, **predictions: ArrayLike) -> tuple[NDArray[np.generic], ...]:
    """Return `labels` and each of `predictions` as arrays of one length and one kind.

    Args:
        labels: (N,) true classes.
        **predictions: (N,) predicted classes, by the name that a refusal should use.

    Raises:
        ShapeError: not one-dimensional, or lengths differ.
        SettingError: empty, neither str nor int, or names beside numbers.
    """
    truth = _column("labels", labels)
    columns = [truth]
    for name, values in predictions.items():
        column = _column(name, values)
        if column.shape != truth.shape:
            raise ShapeError(name, column.shape, f"{truth.shape}, the shape of labels")
        if _KINDS[column.dtype.kind] != _KINDS[truth.dtype.kind]:
            raise SettingError(
                f"the kind of {name}",
                _KINDS[column.dtype.kind],
                f"{_KINDS[truth.dtype.kind]}, as in labels",
            )
        columns.append(column)
    return tuple(columns)


def uar(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the unweighted average recall: the mean recall over the classes in `labels`.

    Args:
        labels: (N,) true classes.
        predictions: (N,) predicted classes.

    Raises:
        ShapeError, SettingError: see `validate`.

    Example:
        >>> uar(["sad", "sad", "angry"], ["sad", "angry", "angry"])
        0.75
    """
    truth, predicted = validate(labels, predictions=predictions)
    _, codes = np.unique(truth, return_inverse=True)
    hits = np.bincount(codes, weights=truth == predicted)
    return float(np.mean(hits / np.bincount(codes)))


def weighted_accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of right predictions (each class weighs as much as it is frequent)."""
    truth, predicted = validate(labels, predictions=predictions)
    return float(np.mean(truth == predicted))


def confusion(
    labels: ArrayLike, predictions: ArrayLike, classes: Sequence[str] | Sequence[int]
) -> NDArray[np.int64]:
    """Return the (C, C) counts: row = true class, column = predicted class, both in `classes`.

    Raises:
        SettingError: `classes` repeats a class, or a label or prediction is not among them.
        ShapeError: see `validate`.
    """
    truth, predicted = validate(labels, predictions=predictions)
    names = _column("classes", classes)
    if np.unique(names).size != names.size:
        raise SettingError("classes", names.tolist(), "each class once")
    for name, column in (("labels", truth), ("predictions", predicted)):
        foreign = column[~np.isin(column, names)]
        if foreign.size:
            raise SettingError.choice(f"a value of {name}", foreign[0].item(), map(str, names))
    order = np.argsort(names)
    rows = order[np.searchsorted(names, truth, sorter=order)]
    columns = order[np.searchsorted(names, predicted, sorter=order)]
    counts = np.bincount(rows * names.size + columns, minlength=names.size**2)
    return counts.reshape(names.size, names.size).astype(np.int64)


def recalls(
    labels: ArrayLike, predictions: ArrayLike, classes: Sequence[str] | Sequence[int]
) -> NDArray[np.float64]:
    """Return the (C,) recall of each of `classes`; ``nan`` for one that `labels` does not hold."""
    counts = confusion(labels, predictions, classes)
    return _shares(np.diagonal(counts), counts.sum(axis=1))


def _shares(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``parts / wholes`` with ``nan``, and no warning, where there is no whole."""
    result = np.full(parts.shape, np.nan)
    np.divide(parts, wholes, out=result, where=wholes > 0)
    return result


def _share(which: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    """Return the share of `which` in `among`, ``nan`` when `among` is empty."""
    return float(np.mean(which[among])) if among.any() else float("nan")


def protection_efficacy(
    labels: ArrayLike, clean: ArrayLike, attacked: ArrayLike, protected: ArrayLike
) -> float:
    """Return PE = (R_no − R_prot) / R_no, the risk that the defence takes away (equation 12).

    R is the share of clean-correct utterances that are wrong after the attack: R_no without the
    defence (`attacked`), R_prot with it (`protected`). 1 is full protection, 0 none; negative
    values say that the defence does more harm than the attack.

    Args:
        labels: (N,) true classes.
        clean: (N,) predictions of the undefended target on clean input.
        attacked: (N,) predictions of the undefended target on attacked input.
        protected: (N,) predictions of the defended target on attacked input.

    Returns:
        PE, or ``nan`` when there is no clean-correct utterance or the attack turns none of them
        (R_no = 0): no risk, hence none to take away.
    """
    truth, before, bare, defended = validate(
        labels, clean=clean, attacked=attacked, protected=protected
    )
    right = before == truth
    risk = _share(bare != truth, right)
    if np.isnan(risk) or risk == 0:
        return float("nan")
    return (risk - _share(defended != truth, right)) / risk


def recovery_rate(labels: ArrayLike, clean: ArrayLike, protected: ArrayLike) -> float:
    """Return RR = N(wrong → right) / N(wrong) (equation 13).

    "Wrong" is read as wrong on *clean* input without a defence, "right" as right after attack and
    defence: the only reading under which the paper's PE, RR and UAR agree with each other.

    Args:
        labels: (N,) true classes.
        clean: (N,) predictions of the undefended target on clean input.
        protected: (N,) predictions of the defended target on attacked input.

    Returns:
        RR, or ``nan`` when the target gets no clean utterance wrong.
    """
    truth, before, defended = validate(labels, clean=clean, protected=protected)
    return _share(defended == truth, before != truth)


def harm_rate(labels: ArrayLike, clean: ArrayLike, defended_clean: ArrayLike) -> float:
    """Return the share of clean-correct utterances that the defence itself turns wrong.

    Args:
        labels: (N,) true classes.
        clean: (N,) predictions of the undefended target on clean input.
        defended_clean: (N,) predictions of the defended target on the same clean input.

    Returns:
        The harm rate, or ``nan`` when there is no clean-correct utterance.
    """
    truth, before, defended = validate(labels, clean=clean, defended_clean=defended_clean)
    return _share(defended != truth, before == truth)
