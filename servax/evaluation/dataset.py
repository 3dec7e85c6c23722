"""What is attacked with: utterances of held-out speakers, as the model takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from servax.audio import read
from servax.corpora import Corpus, Fold, Selection, cache_folder
from servax.errors import SettingError
from servax.evaluation.systems import System
from servax.evaluation.trial import Inputs
from servax.features import (
    Dataset,
    Features,
    FrontEnd,
    FrontEndSettings,
    Scaling,
    extract,
    fit_scale,
)
from servax.perturbation import into_16_bit
from servax.training import generator

Progress = Callable[[int, int], None]
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


def some(test: Corpus, count: int | None, *, seed: int) -> Corpus:
    """Return `count` utterances of `test`, or all; classes and speakers in equal shares."""
    if count is None or count >= len(test):
        return test
    return test.subset(chosen(test, count, seed=seed))


def chosen(corpus: Corpus, count: int, *, seed: int) -> np.ndarray:
    """Return a mask (N,) of `count` utterances: classes, and speakers in each, in equal shares."""
    order = np.random.default_rng(generator(seed, "audit", "utterances").initial_seed())
    table = corpus.utterances.reset_index(drop=True)
    # The turn of an utterance among those of its class and speaker, then of its class: taking the
    # lowest turns first visits every class once before any twice, and its speakers in turn.
    table = table.iloc[order.permutation(len(table))]
    for keys in (["label", "speaker"], ["label"]):
        turns = table.groupby(keys).cumcount()
        table = table.loc[turns.sort_values(kind="stable").index]
    mask = np.zeros(len(table), dtype=bool)
    mask[table.index[:count]] = True
    return mask


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """The utterances under attack, ready for the model."""

    corpus: Corpus
    """The utterances, labelled."""
    x: Tensor
    """Inputs of the model, (N, 1, M, F) or (N, T)."""
    y: Tensor
    """True classes in the order of the model's logits, (N,)."""
    names: tuple[str, ...]
    """What each of the model's classes is called in records; the corpus' word where it has one."""
    split: str = ""
    """Hash of the split that the utterances were held out of."""
    recordings: str = ""
    """Hash of the inputs and labels; part of the key of every stage of an audit."""
    mask: Tensor | None = None
    """Where an input carries sound, bool (N, 1, 1, F); none where it does everywhere."""

    @classmethod
    def of(cls, part: Dataset) -> EvaluationSet:
        """Return the utterances of one part of a fold, all in memory."""
        x = part.batch(np.arange(len(part))).x
        return cls(corpus=part.corpus, x=x, y=part.labels, names=part.corpus.labels)

    @property
    def space(self) -> Inputs:
        """What an input is."""
        return "waveform" if self.x.ndim == 2 else "logmel"

    def number(self, name: str) -> int:
        """Return which of the model's classes a name of the records is."""
        return self.names.index(name)

    def __len__(self) -> int:
        return len(self.y)


def gather(
    system: System,
    selection: Selection,
    *,
    progress: Progress | None = None,
) -> tuple[System, EvaluationSet]:
    """Return the system with its scale settled, and what it hears.

    Args:
        system: The model.
        selection: Which utterances.
        progress: Is told (done, total) utterances while features are computed.

    Raises:
        CorpusError: The corpus is not there.
        SettingError: Its labels are not the model's, or there is no such group.
    """
    fold = selection.fold()
    corpus = some(fold.test, selection.utterances, seed=selection.seed)
    return heard_by(system, fold, corpus, progress=progress)


def heard_by(
    system: System, fold: Fold, corpus: Corpus, *, progress: Progress | None = None
) -> tuple[System, EvaluationSet]:
    """Return a system with its scale settled, and what it hears of some utterances.

    Args:
        system: The model.
        fold: Whose training speakers settle the scale of a model that says none.
        corpus: The utterances, of its test speakers.
        progress: As of `gather`.

    Raises:
        SettingError: The labels of the corpus are not the model's.
    """
    order = align_labels(system.labels, corpus.labels)
    system, x = inputs_of(system, fold, corpus, progress)
    y = order[torch.from_numpy(corpus.label_index.copy())]
    names = list(system.labels)
    for label, index in zip(corpus.labels, order.tolist(), strict=True):
        names[index] = label
    told = hashlib.sha256(x.numpy().tobytes())
    told.update("\0".join([*corpus.utterances["utterance"], *corpus.utterances["label"]]).encode())
    held = EvaluationSet(
        corpus=corpus,
        x=x,
        y=y,
        names=tuple(names),
        split=fold.hash,
        recordings=told.hexdigest(),
        mask=_sounding(system, corpus, x) if system.inputs == "logmel" else None,
    )
    return system, held


def inputs_of(
    system: System, fold: Fold, corpus: Corpus, progress: Progress | None = None
) -> tuple[System, Tensor]:
    """Return a system with its scale settled, and its inputs (N, ...) of some utterances.

    Arguments as of `heard_by`.
    """
    if system.inputs == "logmel":
        return _logmel(system, fold, corpus, progress)
    return system, _waveforms(system, corpus, progress)


def _logmel(
    system: System, fold: Fold, corpus: Corpus, progress: Progress | None
) -> tuple[System, Tensor]:
    front_end = system.front_end or FrontEndSettings()

    def features(part: Corpus) -> Features:
        folder = cache_folder() / "features"
        return extract(part, FrontEnd(front_end), folder=folder, progress=progress)

    scale: Scaling | None = system.scale
    if scale is None:
        # A model that says nothing of its scale gets the one that servax would train it on.
        scale = fit_scale(fold.train, features(fold.train))
        system = replace(system, front_end=front_end, scale=scale)
    return system, Dataset(corpus, features(corpus), scale).batch(np.arange(len(corpus))).x


def _sounding(system: System, corpus: Corpus, x: Tensor) -> Tensor | None:
    """Return which frames carry sound where a front-end fills short utterances with silence."""
    settings = system.front_end
    if settings is None or settings.fill == "repeat":
        return None
    rate, hop = settings.logmel.sample_rate, settings.logmel.hop_samples
    frames = [
        1 + len(read(path, sample_rate=rate, start=start, end=end)) // hop
        for _, path, start, end in corpus.stretches
    ]
    return (torch.arange(x.shape[-1]) < torch.tensor(frames).unsqueeze(1))[:, None, None, :]


def _waveforms(system: System, corpus: Corpus, progress: Progress | None) -> Tensor:
    """Return as much of each utterance as the model hears: the middle, a shorter one repeated.

    Samples are of 16 bits.
    """
    length = round(system.seconds * system.sample_rate)
    if length < 1:
        raise SettingError("seconds", system.seconds, "a length of at least one sample")
    rows = []
    for done, (_, path, start, end) in enumerate(corpus.stretches, start=1):
        sound = read(path, sample_rate=system.sample_rate, start=start, end=end)
        if len(sound) < length:
            sound = np.tile(sound, -(-length // len(sound)))[:length]
        start_at = (len(sound) - length) // 2
        rows.append(sound[start_at : start_at + length])
        if progress:
            progress(done, len(corpus))
    # 16 bits, as a file holds them: an attack then pays for its own rounding alone.
    return into_16_bit(torch.from_numpy(np.stack(rows)), system.bounds)


def training_waveforms(system: System, selection: Selection, count: int) -> tuple[Tensor, Tensor]:
    """Return what a model of waveforms hears of training speakers, (N, T), and their classes (N,).

    Args:
        system: The model.
        selection: Whose held-out group is not heard.
        count: How many at most; classes and speakers in equal shares.

    Raises:
        CorpusError: The corpus is not there.
        SettingError: Its labels are not the model's.
    """
    train = selection.fold().train
    part = train.subset(chosen(train, count, seed=selection.seed))
    order = align_labels(system.labels, part.labels)
    return _waveforms(system, part, None), order[torch.from_numpy(part.label_index.copy())]


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
    exact = [name.strip().casefold() for name in labels]
    usual = [_PLAIN.get(name, name) for name in exact]
    found = []
    for name in corpus_labels:
        plain = name.strip().casefold()
        for spelled, wanted in ((exact, plain), (usual, _PLAIN.get(plain, plain))):
            places = [place for place, each in enumerate(spelled) if each == wanted]
            if places:
                break
        found.append(places)
    wrong = [
        name
        for name, places in zip(corpus_labels, found, strict=True)
        if len(places) != 1 or found.count(places) > 1
    ]
    if wrong:
        raise SettingError(
            "labels",
            list(labels),
            f"one class of the model for each class of the corpus {list(corpus_labels)}, which "
            f"{', '.join(map(repr, wrong))} has not; say with labels= what the corpus calls the "
            "model's classes, in the order of the logits",
        )
    return torch.tensor([place for (place,) in found], dtype=torch.int64)
