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

Measures by group follow from one count: how many utterances of a class each group has, and how many
of them came out right. A group is a speaker, a gender, or anything else with one name per
utterance. Their predictions are (N,), or (K, N) for K conditions whose measures are averaged (the
"mean" columns of the paper's Table 1). A class that a group does not hold does not count there.

Sources: Su & Lee, Interspeech 2022, equations 12 and 13 (the paper's equation 13 can be read in
several ways; see `recovery_rate`); Fawcett 2006 for the receiver operating characteristic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu

from servax.errors import SettingError, ShapeError

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
    counts = pd.crosstab(truth, predicted).reindex(index=names, columns=names, fill_value=0)
    return counts.to_numpy(np.int64)


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


def tally(labels: ArrayLike, predictions: ArrayLike, groups: ArrayLike) -> Tally:
    """Count utterances and right answers by group and class.

    Args:
        labels: (N,) true classes.
        predictions: (N,) or (K, N) predicted classes.
        groups: (N,) name of each utterance's group.

    Raises:
        ShapeError: lengths differ, or `predictions` has another number of dimensions.
        SettingError: see `validate`.
    """
    given = np.asarray(predictions)
    if given.ndim not in (1, 2) or given.shape[0] == 0:
        raise ShapeError("predictions", given.shape, "(N,) or (K, N): one entry per utterance")
    columns = [validate(labels, predictions=cell) for cell in np.atleast_2d(given)]
    truth = columns[0][0]
    who = np.asarray(groups)
    if who.shape != truth.shape:
        raise ShapeError("groups", who.shape, f"{truth.shape}, the shape of labels")
    names, group = np.unique(who, return_inverse=True)
    classes, code = np.unique(truth, return_inverse=True)
    place = group * classes.size + code
    shape, places = (names.size, classes.size), names.size * classes.size
    right = [place[np.asarray(truth == predicted)] for _, predicted in columns]
    totals, *hits = (np.bincount(c, minlength=places).reshape(shape) for c in [place, *right])
    return Tally(names, classes, totals, np.stack(hits))


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


def roc_area(clean_scores: ArrayLike, attacked_scores: ArrayLike) -> float:
    """Return the area under the receiver operating characteristic of a detector of attacks.

    It is the share of pairs in which the attacked input scores above the clean one, ties counting
    one half; .5 is chance.

    Args:
        clean_scores: (N,) scores of clean inputs, the higher the more likely an attack.
        attacked_scores: (M,) scores of attacked inputs.

    Raises:
        ShapeError: Scores are not one-dimensional, or there are none.
        SettingError: A score is not finite.
    """
    clean = _scores("clean_scores", clean_scores)
    attacked = _scores("attacked_scores", attacked_scores)
    pairs = mannwhitneyu(attacked, clean, method="asymptotic").statistic
    return float(pairs / (clean.size * attacked.size))


def detected_at(
    clean_scores: ArrayLike, attacked_scores: ArrayLike, false_positive_rate: float
) -> float:
    """Return the largest share of attacked inputs flagged at no more false alarms than this rate.

    Raises:
        ShapeError, SettingError: As for `roc_area`, or the rate is outside [0, 1].
    """
    clean = np.sort(_scores("clean_scores", clean_scores))[::-1]
    attacked = _scores("attacked_scores", attacked_scores)
    if not 0 <= false_positive_rate <= 1:
        raise SettingError("false_positive_rate", false_positive_rate, "a share in [0, 1]")
    allowed = int((false_positive_rate + 1e-12) * clean.size)
    # So many clean inputs may be flagged: the threshold stands just above the next one.
    return 1.0 if allowed >= clean.size else float(np.mean(attacked > clean[allowed]))


def _scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ShapeError(name, scores.shape, "(N,): one score per input, N >= 1")
    if not np.isfinite(scores).all():
        raise SettingError(name, "not finite", "scores without NaN or infinity")
    return scores
