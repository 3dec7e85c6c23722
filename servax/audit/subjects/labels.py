"""Classes of a corpus in the order of a model's logits, whatever each calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from servax.errors import SettingError

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "angry": ("ang", "anger"),
    "bored": ("bor", "boredom"),
    "calm": ("cal", "calmness"),
    "disgusted": ("dis", "disgust"),
    "excited": ("exc", "excitement"),
    "fearful": ("fea", "fear"),
    "frustrated": ("fru", "frustration"),
    "happy": ("hap", "happiness", "joy"),
    "neutral": ("neu", "neutrality"),
    "other": ("oth", "others"),
    "sad": ("sadness",),
    "surprised": ("sur", "surprise"),
}
"""Other names of the emotions of `servax.corpora` that models use."""
_PLAIN = {other: name for name, others in SPELLINGS.items() for other in others}


def align_labels(labels: Sequence[str], corpus_labels: Sequence[str]) -> Tensor:
    """Return where each class of a corpus stands among the logits of a model.

    Names are compared without case, then by their usual spellings (``ang``, ``anger``, ``angry``).
    The model may have classes that the corpus lacks.

    Args:
        labels: Names of the model's classes in the order of its logits.
        corpus_labels: Names of the corpus' classes in the order of its class indices.

    Returns:
        int64 (classes of the corpus,): ``align_labels(...)[y]`` are the classes `y` of utterances
        in the order of the model.

    Raises:
        SettingError: A class of the corpus is none of the model's, or could be two of them.

    Example:
        >>> align_labels(["neu", "hap", "ang", "sad"], ["angry", "happy", "neutral", "sad"])
        tensor([2, 1, 0, 3])
    """
    places = [_places(name, labels) for name in corpus_labels]
    wrong = [
        name
        for name, found in zip(corpus_labels, places, strict=True)
        if len(found) != 1 or places.count(found) > 1
    ]
    if wrong:
        raise SettingError(
            "labels",
            list(labels),
            f"one class of the model for each class of the corpus {list(corpus_labels)}, which "
            f"{', '.join(map(repr, wrong))} has not; say with labels= what the corpus calls the "
            "model's classes, in the order of the logits",
        )
    return torch.tensor([found[0] for found in places], dtype=torch.int64)


def _places(name: str, labels: Sequence[str]) -> list[int]:
    """Return where a name stands among `labels`: letter for letter, else by its spellings."""
    exact = [i for i, label in enumerate(labels) if _folded(label) == _folded(name)]
    return exact or [i for i, label in enumerate(labels) if _plain(label) == _plain(name)]


def _folded(name: str) -> str:
    return name.strip().casefold()


def _plain(name: str) -> str:
    return _PLAIN.get(_folded(name), _folded(name))
