"""A name becomes a corpus, or the fold that options choose: `load`, `FoldChoice`, `Selection`."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import pandas as pd

from servax.corpora import cremad, emodb, fsdd, iemocap, nemo, ravdess, synthetic
from servax.corpora.corpus import COLUMNS, Corpus, Fold
from servax.corpora.description import EMOTIONS, FOUR, Description, Scan
from servax.corpora.folds import natural_order
from servax.corpora.manifest import is_manifest, read_manifest, read_values
from servax.errors import CorpusError, SettingError, nearest
from servax.files import expanded
from servax.kinds import COUNT, Choice, Rules, check, check_types

NAMES: dict[str, Description] = {
    module.DESCRIPTION.name: module.DESCRIPTION
    for module in (ravdess, emodb, iemocap, cremad, nemo, fsdd, synthetic)
}
"""Every corpus that servax knows by name."""
Scheme = Literal["native", "four", "speaker", "gender"]
"""Label schemes: the corpus' own labels; angry, happy (and excited), neutral, sad; who speaks."""
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
CACHES = {
    "win32": ("LOCALAPPDATA", "AppData", "Local"),
    "darwin": ("", "Library", "Caches"),
}
"""Variable that names the user's cache, and where below the home it lies else; Linux's is XDG's."""
COLUMN_SCHEMES = ("speaker", "gender")
"""Schemes whose label is another column of the table."""


def cache_folder() -> Path:
    """Return the folder for things that can be made again: ``SERVAX_CACHE`` or the user's cache.

    Raises:
        SettingError: ``SERVAX_CACHE`` is not set, and this user has no home.
    """
    given = os.environ.get("SERVAX_CACHE")
    if given:
        return expanded(given)
    variable, *folders = CACHES.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    if base := os.environ.get(variable):
        return Path(base) / "servax"
    home = expanded("~")
    if str(home) == "~":
        raise SettingError("SERVAX_CACHE", None, "a folder to write to: this user has no home")
    return home.joinpath(*folders) / "servax"


def data_folder() -> Path:
    """Return the folder of corpora: ``SERVAX_DATA`` or ``data`` below the cache folder."""
    given = os.environ.get("SERVAX_DATA")
    return expanded(given) if given else cache_folder() / "data"


def describe(name: str) -> Description:
    """Return the story and the numbers of a corpus.

    Raises:
        SettingError: The name is unknown.
    """
    Choice(NAMES).check("corpus", name)
    return NAMES[name]


def load(
    name: str | Path,
    root: str | Path | None = None,
    *,
    scheme: str = "native",
    limit: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Return a corpus by name, or one's own corpus from a manifest.

    Args:
        name: One of `NAMES`, or the path of a ``.csv`` or ``.parquet`` manifest.
        root: Folder of the corpus; default ``$SERVAX_DATA/<name>``, for a manifest the folder
            that it lies in, for the synthetic corpus the cache folder (where it is made if it is
            not there yet).
        scheme: What is the label: ``native`` (the corpus' own), ``four`` (emotions), ``speaker``
            or ``gender``.
        limit: At most this many utterances, spread over speakers and labels; None for all.
        seed: Decides what the synthetic corpus says; other corpora have no use for it.

    Raises:
        SettingError: `name`, `scheme` or `limit` is outside its rule.
        CorpusError: The corpus is not there, is empty, or cannot serve `scheme`; a manifest breaks
            a rule.
    """
    for said, value in (("name", name), ("root", root)):
        check(said, value, "str | Path | None")
    check("scheme", scheme, "str")
    name = str(name)
    folder = None if root is None else expanded(root)
    Choice(SCHEMES).check("scheme", scheme)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise SettingError("limit", limit, "None or a whole number >= 1")
    if is_manifest(name):
        table = expanded(name)
        folder = table.parent if folder is None else folder
        return _labelled(read_manifest(table, folder), table.stem, folder, scheme, None, limit)
    description = describe(name)
    if scheme not in description.schemes:
        raise CorpusError(
            f"{name} cannot serve scheme {scheme!r}: its labels are "
            f"{', '.join(description.labels)}. "
            f"Use scheme {' or '.join(repr(served) for served in description.schemes)}."
        )
    if name == synthetic.DESCRIPTION.name:
        folder = spoken(folder, seed=seed)
    folder = data_folder() / name if folder is None else folder
    return _labelled(_scan(description, folder), name, folder, scheme, description, limit)


def spoken(folder: Path | None = None, *, seed: int = 0) -> Path:
    """Return the folder of the synthetic corpus, which is spoken if it is not there yet.

    Args:
        folder: Where such folders are kept; default ``synthetic`` below the cache folder.
        seed: Decides what is drawn, >= 0.
    """
    return synthetic.generate(folder or cache_folder() / "synthetic", seed=seed)


@dataclass(frozen=True)
class FoldChoice:
    """One fold of a corpus."""

    corpus: str
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    _: KW_ONLY
    root: str | None = None
    """Folder of the corpus; default $SERVAX_DATA/<name>."""
    scheme: Scheme = "four"
    """What is the label: native (the corpus' own), four (emotions), speaker or gender."""
    groups: int | str = 6
    """Into how many groups the speakers are divided; or speaker (each of them), text (each text;
    speakers on both sides) or official (the published split)."""
    held_out: int = 1
    """Which group is held out, from 1."""

    def fold_of(self, corpus: Corpus) -> Fold:
        """Return the fold of a corpus.

        Raises:
            SettingError: There is no such group.
        """
        folds = corpus.folds(self.groups)
        if not 1 <= self.held_out <= len(folds):
            raise SettingError("held_out", self.held_out, f"a group from 1 to {len(folds)}")
        return folds[self.held_out - 1]


@dataclass(frozen=True, kw_only=True)
class Selection(FoldChoice):
    """Which utterances of which corpus an audit hears."""

    corpus: str
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    held_out: int = 1
    """The group that is heard, from 1; the model must not have been trained on it."""
    utterances: int | None = None
    """Most utterances, classes and speakers in equal shares; default all of the group."""
    seed: int = 0
    """Draws utterances, starts and queries; a synthetic corpus is spoken with it too."""

    RULES: ClassVar[Rules] = {"utterances": COUNT}

    def __post_init__(self) -> None:
        check_types(self)

    def fold(self) -> Fold:
        """Return the split whose test part is heard.

        Raises:
            SettingError: There is no such group.
            CorpusError: The corpus is not there.
        """
        return self.fold_of(load(self.corpus, self.root, scheme=self.scheme, seed=self.seed))

    def values(self, columns: Sequence[str]) -> dict[str, tuple[float, ...]] | None:
        """Return the numbers that a manifest says of each utterance, by its name; none of others.

        Errors as of `servax.corpora.manifest.read_values`.
        """
        return read_values(expanded(self.corpus), columns) if is_manifest(self.corpus) else None


def _scan(description: Description, folder: Path) -> Scan:
    """Return what the folder of a described corpus holds."""
    if description.download:
        how = f"Run 'servax corpus fetch {description.name}'"
    else:
        how = f"It must be fetched by hand: {description.by_hand}"
    advice = f"{how}, or pass the folder that holds it as root."
    if not folder.is_dir():
        raise CorpusError(
            f"{description.name} was looked for in {folder}, which is not a folder. {advice}"
        )
    found = description.scan(folder)
    if not found.utterances:
        raise CorpusError(f"{folder}: holds no utterance of {description.name}. {advice}")
    return found


def _labelled(
    found: Scan,
    name: str,
    root: Path,
    scheme: str,
    description: Description | None,
    limit: int | None,
) -> Corpus:
    """Apply the scheme and the limit to what was found."""
    table = pd.DataFrame(list(found.utterances), columns=[c for c in COLUMNS if c != "label"])
    native = tuple(description.counts) if description else set(table["emotion"])
    emotions = {e: e for e in native} if scheme != "four" else _four(native, name)
    table = table[table["emotion"].isin(list(emotions))]
    table["label"] = table[scheme] if scheme in COLUMN_SCHEMES else table["emotion"].map(emotions)
    labels = _classes(table[scheme], name) if scheme in COLUMN_SCHEMES else set(emotions.values())
    if limit is not None:  # one of each speaker and label first
        turn = table.groupby(["speaker", "emotion"]).cumcount()
        table = table.loc[turn.sort_values(kind="stable").index[:limit].sort_values()]
    return Corpus(
        name=name,
        root=root,
        scheme=scheme,
        labels=tuple(sorted(labels, key=natural_order)),
        utterances=table[list(COLUMNS)].reset_index(drop=True),
        description=description,
        emotions=tuple(sorted(emotions, key=natural_order)),
        complete=limit is None,
        left_out=found.left_out,
    )


def _four(native: Collection[str], name: str) -> Mapping[str, str]:
    """Return native label → label of scheme ``four``, for the native labels that it keeps."""
    for emotion in sorted(native):
        if emotion not in EMOTIONS:
            raise CorpusError(
                f"{name}: label {emotion!r} has no place in scheme 'four', expected one of "
                f"{', '.join(EMOTIONS)}.{nearest(emotion, EMOTIONS)}"
            )
    return {emotion: FOUR[emotion] for emotion in native if emotion in FOUR}


def _classes(column: pd.Series[str], name: str) -> set[str]:
    """Return the classes of a scheme whose label is a column of the table."""
    scheme, empty, found = column.name, int((column == "").sum()), sorted(set(column))
    if empty:
        raise CorpusError(
            f"{name} cannot serve scheme {scheme!r}: {empty} of {len(column)} utterances "
            f"do not say their {scheme}. Use scheme 'native', or name it for each utterance."
        )
    if len(found) == 1:
        raise CorpusError(
            f"{name} cannot serve scheme {scheme!r}: every utterance is of {found[0]!r}, "
            f"expected at least two classes. Use scheme 'native'."
        )
    return set(found)
