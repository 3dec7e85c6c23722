"""The utterances of an audit as the model takes them, and as people hear them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from servax.audio import read
from servax.audit.selection import Selection
from servax.audit.subjects import align_labels
from servax.corpora import Corpus, Fold, cache_folder
from servax.errors import SettingError
from servax.evaluation.systems import System
from servax.features import (
    Dataset,
    Features,
    FrontEnd,
    FrontEndSettings,
    Scaling,
    extract,
    fit_scale,
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The utterances of an audit, ready for the model."""

    corpus: Corpus
    """The utterances, labelled."""
    x: Tensor
    """Inputs of the model, (N, 1, M, F) or (N, T)."""
    y: Tensor
    """True classes in the order of the model's logits, (N,)."""
    names: tuple[str, ...]
    """What each of the model's classes is called in records; the corpus' word where it has one."""
    split: str
    """Hash of the split that the utterances were held out of."""
    recordings: str
    """Hash of the inputs and labels; part of the key of every stage."""
    mask: Tensor | None = None
    """Where an input carries sound, bool (N, 1, 1, F); none where it does everywhere."""

    def number(self, name: str) -> int:
        """Return which of the model's classes a name of the records is."""
        return self.names.index(name)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def utterances(self) -> list[str]:
        """What the utterances are called, in their order."""
        return self.corpus.utterances["utterance"].tolist()


def gather(
    subject: System,
    selection: Selection,
    *,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> tuple[System, Material]:
    """Return the subject with its scale settled, and what it hears.

    Args:
        subject: The model.
        selection: Which utterances.
        seconds: Length of a waveform that a model of waveforms is given, by default what the
            subject says: the middle of a longer sound, a shorter one repeated.
        progress: Is told (done, total) utterances while features are computed.

    Raises:
        CorpusError: The corpus is not there.
        SettingError: Its labels are not the model's, or there is no such group.
    """
    fold = selection.fold()
    corpus = selection.of(fold.test)
    order = align_labels(subject.labels, corpus.labels)
    if subject.inputs == "logmel":
        subject, x = _logmel(subject, fold, corpus, progress)
    else:
        length = subject.seconds if seconds is None else seconds
        x = _waveforms(subject, corpus, length, progress)
    y = order[torch.from_numpy(corpus.label_index.copy())]
    names = list(subject.labels)
    for label, index in zip(corpus.labels, order.tolist(), strict=True):
        names[index] = label
    told = hashlib.sha256(x.numpy().tobytes())
    told.update("\0".join([*corpus.utterances["utterance"], *corpus.utterances["label"]]).encode())
    material = Material(
        corpus=corpus,
        x=x,
        y=y,
        names=tuple(names),
        split=fold.hash,
        recordings=told.hexdigest(),
        mask=_sounding(subject, corpus, x) if subject.inputs == "logmel" else None,
    )
    return subject, material


def _logmel(
    subject: System, fold: Fold, corpus: Corpus, progress: Progress | None
) -> tuple[System, Tensor]:
    front_end = subject.front_end or FrontEndSettings()
    scale: Scaling | None = subject.scale
    if scale is None:
        # A model that says nothing of its scale gets the one that servax would train it on.
        scale = fit_scale(fold.train, _features(fold.train, front_end, progress))
        subject = replace(subject, front_end=front_end, scale=scale)
    features = _features(corpus, front_end, progress)
    x = Dataset(corpus, features, scale).batch(np.arange(len(corpus))).x
    return subject, x


def _features(corpus: Corpus, front_end: FrontEndSettings, progress: Progress | None) -> Features:
    return extract(
        corpus, FrontEnd(front_end), folder=cache_folder() / "features", progress=progress
    )


def _sounding(subject: System, corpus: Corpus, x: Tensor) -> Tensor | None:
    """Return which frames carry sound where a front-end fills short utterances with silence."""
    settings = subject.front_end
    if settings is None or settings.fill == "repeat":
        return None
    rate, hop = settings.logmel.sample_rate, settings.logmel.hop_samples
    frames = [
        1 + len(read(path, sample_rate=rate, start=start, end=end)) // hop
        for _, path, start, end in corpus.stretches
    ]
    return (torch.arange(x.shape[-1]) < torch.tensor(frames).unsqueeze(1))[:, None, None, :]


def _waveforms(
    subject: System, corpus: Corpus, seconds: float, progress: Progress | None
) -> Tensor:
    length = round(seconds * subject.sample_rate)
    if length < 1:
        raise SettingError("seconds", seconds, "a length of at least one sample")
    rows = []
    for done, (_, path, start, end) in enumerate(corpus.stretches, start=1):
        sound = read(path, sample_rate=subject.sample_rate, start=start, end=end)
        rows.append(fitted(sound, length))
        if progress:
            progress(done, len(corpus))
    return torch.from_numpy(np.stack(rows)).clamp(*subject.bounds)


def fitted(sound: np.ndarray, length: int) -> np.ndarray:
    """Return the middle `length` samples of (T,), a shorter sound repeated as often as it takes."""
    if len(sound) < length:
        sound = np.tile(sound, -(-length // len(sound)))
        return np.ascontiguousarray(sound[:length])
    start = (len(sound) - length) // 2
    return np.ascontiguousarray(sound[start : start + length])
