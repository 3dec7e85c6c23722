"""What is measured: recognisers on speakers they have not heard, and defences before them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from servax.corpora import Corpus, Fold, cache_folder
from servax.errors import CheckpointError, SettingError, nearest
from servax.evaluation.options import TRANSFORMS, folder_of, make_transform
from servax.evaluation.protocol import Defence
from servax.evaluation.systems import hash_of_files
from servax.features import Dataset, Features, FrontEnd, FrontEndSettings, extract
from servax.models import frozen
from servax.models.storage import SETTINGS, WEIGHTS
from servax.purifier import Purifier
from servax.recognition import Recogniser
from servax.stages import DONE
from servax.training import generator

__all__ = ["Built", "Subject", "build_defence", "group_of", "kind_of", "part", "subject_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A recogniser under attack, with the utterances of one group that it has not heard."""

    network: nn.Module
    """Frozen, in evaluation mode."""
    name: str
    """What kind of network it is: ``vgg16``, ``crnn``, ``resnet``."""
    group: int
    """Which group, from 1."""
    test: Dataset
    """The group's utterances, on the recogniser's scale."""
    features: Features
    """Log-Mel of at least the group's utterances."""
    front_end: FrontEndSettings
    """What it was trained on."""
    fingerprint: str
    """Hash of its weights and settings."""


def subject_of(
    where: str, corpus: Corpus, folds: list[Fold], *, group: int | None = None
) -> Subject:
    """Return a recogniser with the utterances of its held-out group.

    Args:
        where: A folder of `servax run` or `servax train`, or the name of a packaged recogniser.
        corpus: What features are computed of and kept: all of the protocol's corpus, or the group.
        folds: Its folds.
        group: Which group, from 1; default the one that it was held out of.

    Raises:
        CheckpointError: The folder cannot be read.
        SettingError: Nothing says which speakers trained it, or it has heard the group.
    """
    folder = folder_of(where)
    recogniser = Recogniser.from_pretrained(folder)
    group = group_of(where, folds) if group is None else group
    if not 1 <= group <= len(folds):
        raise SettingError("group", group, f"a group from 1 to {len(folds)}")
    heard = folds[group - 1].test
    _unheard(where, recogniser.speakers, heard)
    if tuple(heard.labels) != recogniser.labels:
        told = ", ".join(heard.labels)
        raise SettingError("target", where, f"a recogniser of the classes {told}")
    features = extract(corpus, FrontEnd(recogniser.front_end), folder=cache_folder() / "features")
    return Subject(
        network=frozen(recogniser.network),
        name=kind_of(recogniser.network),
        group=group,
        test=Dataset(heard, features, recogniser.scale),
        features=features,
        front_end=recogniser.front_end,
        fingerprint=_fingerprint(folder),
    )


def kind_of(network: nn.Module) -> str:
    """Return what kind of network a recogniser is: ``vgg16``, ``crnn`` or ``resnet``."""
    return type(network).__name__.lower()


def part(subject: Subject, mask: NDArray[np.bool_]) -> Dataset:
    """Return the utterances of a subject's group that a mask (N,) selects."""
    test = subject.test
    return Dataset(test.corpus.subset(mask), subject.features, test.scale)


def group_of(where: str, folds: list[Fold]) -> int:
    """Return the group, from 1, of the fold that a recogniser was trained on.

    Raises:
        CheckpointError: The folder cannot be read.
        SettingError: It was trained on none of the folds, or does not say on which.
    """
    folder = folder_of(where)
    recogniser = Recogniser.from_pretrained(folder)
    done = folder.parent / DONE
    told = _fold_hash(done) if done.is_file() else None
    for number, fold in enumerate(folds, start=1):
        if told == fold.hash or set(recogniser.speakers) == set(map(str, fold.train.speakers)):
            return number
    raise SettingError(
        "target",
        str(folder),
        f"a recogniser that `servax run` trained on one of the {len(folds)} folds of the protocol; "
        "name the group of any other, as FOLDER@GROUP",
    )


def _fold_hash(done: Path) -> str | None:
    try:
        settings = json.loads(json.loads(done.read_text(encoding="utf-8"))["settings"])
        return str(settings["fold"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(done, "does not say of which fold this stage is") from None


def _unheard(where: str, speakers: Iterable[object], corpus: Corpus) -> None:
    heard = sorted(set(map(str, speakers)) & set(map(str, corpus.speakers)))
    if heard:
        raise SettingError(
            "group",
            ", ".join(map(str, corpus.speakers)),
            f"speakers that {where} was not trained on; it has heard {', '.join(heard)}",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Built:
    """A defence, ready to stand before a subject."""

    defence: Defence
    """What is measured."""
    fingerprint: str
    """Hash of what decides its answers."""
    parameters: int | None = None
    """How many numbers it has learned; none for none."""


def build_defence(what: str, subject: Subject, *, seed: int) -> Built:
    """Return a defence of a subject.

    Args:
        what: The folder of a purifier or of a recogniser that takes the subject's place, the name
            of a packaged one, or a transform such as ``mean-filter:3``; ``{group}`` and ``{seed}``
            in it become the numbers of the subject's group and of the seed.
        subject: What it protects.
        seed: Of its training; draws what a random transform needs.

    Raises:
        CheckpointError: The folder cannot be read.
        SettingError: It is none of these, does not fit the subject, or has heard its speakers.
    """
    what = what.replace("{group}", str(subject.group)).replace("{seed}", str(seed))
    kind, _, value = what.partition(":")
    if kind in TRANSFORMS and not Path(what).exists():
        return _transform(kind, value, subject, seed)
    folder = folder_of(what)
    extra = _extra(folder)
    _unheard(what, extra.get("speakers", ()), subject.test.corpus)
    role = extra.get("role")
    if role == "purifier":
        purifier = Purifier.from_pretrained(folder)
        if not purifier.fits(subject.test.scale, subject.front_end):
            raise SettingError(
                "defence", what, "a purifier of the target's own log-Mel, level and width of scale"
            )
        return Built(
            defence=Defence(purifier.frozen()),
            fingerprint=_fingerprint(folder),
            parameters=_count(purifier.network),
        )
    if role == "recogniser":
        recogniser = Recogniser.from_pretrained(folder)
        if recogniser.scale.settings != subject.test.scale.settings:
            raise SettingError("defence", what, "a recogniser of the target's own scale")
        return Built(
            defence=Defence(frozen(recogniser.network), instead=True),
            fingerprint=_fingerprint(folder),
            parameters=_count(recogniser.network),
        )
    raise SettingError(
        "defence",
        what,
        "the folder or packaged name of a purifier or recogniser, or one of "
        + ", ".join(f"{each}:VALUE" for each in TRANSFORMS),
        hint=nearest(kind, TRANSFORMS),
    )


def _transform(kind: str, value: str, subject: Subject, seed: int) -> Built:
    if TRANSFORMS[kind].inputs != "logmel":
        raise SettingError("defence", kind, "a transform that takes log-Mel, as the targets do")
    rate = subject.front_end.logmel.sample_rate
    module, number = make_transform(kind, value, rate, generator(seed, "defence", kind))
    knowledge = getattr(module, "knowledge", "adaptive")
    told = hashlib.sha256(f"{kind}:{number:g}:{seed}".encode()).hexdigest()
    return Built(defence=Defence(module, knowledge), fingerprint=told)


def _count(network: nn.Module) -> int:
    # Of the network as it was trained: a frozen copy has its batch norms folded.
    return sum(each.numel() for each in network.parameters())


def _extra(folder: Path) -> dict[str, Any]:
    try:
        extra = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["extra"]
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError):
        extra = None
    if not isinstance(extra, dict):
        raise CheckpointError(folder / SETTINGS, "does not say what the folder holds")
    return extra


def _fingerprint(folder: Path) -> str:
    """Return the hash of the weights and settings in a folder."""
    return hash_of_files(folder / name for name in (WEIGHTS, SETTINGS))
