"""What is measured: recognisers on speakers they have not heard, and defences before them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from servax.corpora import Corpus, Fold, cache_folder
from servax.errors import CheckpointError, SettingError
from servax.evaluation.loading import folder_of, load_system
from servax.evaluation.options import TRANSFORMS, defended
from servax.evaluation.records import UNDEFENDED
from servax.evaluation.systems import System
from servax.features import Dataset, Features, FrontEnd, extract
from servax.models.storage import SETTINGS
from servax.purifier import Purifier
from servax.recognition import Recogniser
from servax.stages import DONE


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A recogniser under attack, with the utterances of one group that it has not heard."""

    system: System
    """The bare recogniser."""
    name: str
    """What kind of network it is: ``vgg16``, ``crnn``, ``resnet``."""
    group: int
    """Which group, from 1."""
    test: Dataset
    """The group's utterances, on the recogniser's scale."""
    features: Features
    """Log-Mel of at least the group's utterances."""


def target_of(where: str, corpus: Corpus, folds: list[Fold], *, group: int | None = None) -> Target:
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
    return Target(
        system=replace(load_system(str(folder)), name=UNDEFENDED),
        name=kind_of(recogniser.network),
        group=group,
        test=Dataset(heard, features, recogniser.scale),
        features=features,
    )


def kind_of(network: nn.Module) -> str:
    """Return what kind of network a recogniser is: ``vgg16``, ``crnn`` or ``resnet``."""
    return type(network).__name__.lower()


def part(target: Target, mask: NDArray[np.bool_]) -> Dataset:
    """Return the utterances of a target's group that a mask (N,) selects."""
    test = target.test
    return Dataset(test.corpus.subset(mask), target.features, test.scale)


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


def defence_of(what: str, target: Target, *, seed: int) -> System:
    """Return a defence of a target, as an audit takes it, that has not heard its speakers.

    Args:
        what: As for `servax.evaluation.options.defended`; ``{group}`` and ``{seed}`` in it become
            the numbers of the target's group and of the seed.
        target: What it protects.
        seed: Of its training; draws what a random transform needs.

    Raises:
        CheckpointError: The folder cannot be read.
        SettingError: It is none of these, does not fit the target, or has heard its speakers.
    """
    what = _filled(what, target, seed)
    if what.partition(":")[0] not in TRANSFORMS:
        speakers = _extra(folder_of(what)).get("speakers", ())
        _unheard(what, speakers, target.test.corpus)
    return defended(target.system, what, seed=seed)


def parameters_of(what: str, target: Target, *, seed: int) -> int | None:
    """Return how many numbers a defence has learned, None for none; arguments as `defence_of`."""
    folder = folder_of(_filled(what, target, seed))
    kinds = {"purifier": Purifier, "recogniser": Recogniser}
    kind = kinds.get(_extra(folder).get("role", ""))
    if kind is None:
        return None
    # Of the network as it was trained: a frozen copy has its batch norms folded.
    return sum(each.numel() for each in kind.from_pretrained(folder).network.parameters())


def _filled(what: str, target: Target, seed: int) -> str:
    return what.replace("{group}", str(target.group)).replace("{seed}", str(seed))


def _extra(folder: Path) -> dict[str, Any]:
    """Return what a folder of servax says beside its weights; nothing where it is none."""
    place = folder / SETTINGS
    if not place.is_file():
        return {}
    try:
        return dict(json.loads(place.read_text(encoding="utf-8"))["extra"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(place, "does not say what the folder holds") from None
