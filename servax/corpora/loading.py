"""A name becomes a corpus: the list of known corpora, and `load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from servax.corpora import cremad, emodb, fsdd, iemocap, nemo, ravdess, synthetic
from servax.corpora.corpus import COLUMNS, Corpus
from servax.corpora.description import EMOTIONS, FOUR, Description, Scan, Utterance
from servax.corpora.folders import data_folder
from servax.corpora.manifest import is_manifest, read_manifest
from servax.corpora.partition import natural_order
from servax.errors import CorpusError, SettingError, nearest
from servax.files import expanded
from servax.kinds import check

__all__ = ["NAMES", "SCHEMES", "describe", "load"]

NAMES: dict[str, Description] = {
    module.DESCRIPTION.name: module.DESCRIPTION
    for module in (ravdess, emodb, iemocap, cremad, nemo, fsdd, synthetic)
}
"""Every corpus that servax knows by name."""
SCHEMES = ("native", "four", "speaker", "gender")
"""Label schemes: the corpus' own labels; angry, happy (and excited), neutral, sad; who speaks."""
COLUMN_SCHEMES = ("speaker", "gender")
"""Schemes whose label is another column of the table."""


def describe(name: str) -> Description:
    """Return the story and the numbers of a corpus.

    Raises:
        SettingError: The name is unknown.
    """
    if name not in NAMES:
        raise SettingError.choice("corpus", name, NAMES)
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
    root = None if root is None else expanded(root)
    if scheme not in SCHEMES:
        raise SettingError.choice("scheme", scheme, SCHEMES)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise SettingError("limit", limit, "None or a whole number >= 1")
    if is_manifest(name):
        table = expanded(name)
        folder = table.parent if root is None else root
        return _build(read_manifest(table, folder), table.stem, folder, scheme, None, limit)
    description = describe(name)
    folder, found = _scan(description, root, scheme, seed)
    return _build(found, name, folder, scheme, description, limit)


def _scan(description: Description, root: Path | None, scheme: str, seed: int) -> tuple[Path, Scan]:
    """Return the folder of a described corpus and what it holds."""
    name = description.name
    if scheme not in description.schemes:
        raise CorpusError(
            f"{name} cannot serve scheme {scheme!r}: its labels are "
            f"{', '.join(description.labels)}. "
            f"Use scheme {' or '.join(repr(served) for served in description.schemes)}."
        )
    if name == synthetic.DESCRIPTION.name:
        folder = synthetic.generate(root, seed=seed)
    else:
        folder = _find(description, root)
    found = description.scan(folder)
    if not found.utterances:
        raise CorpusError(f"{folder}: holds no utterance of {name}. {_advice(description)}")
    return folder, found


def _find(description: Description, root: Path | None) -> Path:
    """Return the existing folder of a corpus."""
    folder = data_folder() / description.name if root is None else root
    if not folder.is_dir():
        raise CorpusError(
            f"{description.name} was looked for in {folder}, which is not a folder. "
            f"{_advice(description)}"
        )
    return folder


def _advice(description: Description) -> str:
    """Return what to do when a corpus is not there."""
    if description.download:
        how = f"Run 'servax corpus fetch {description.name}'"
    else:
        how = f"It must be fetched by hand: {description.by_hand}"
    return f"{how}, or pass the folder that holds it as root."


def _build(
    found: Scan,
    name: str,
    root: Path,
    scheme: str,
    description: Description | None,
    limit: int | None,
) -> Corpus:
    """Apply the scheme and the limit to what was found."""
    native = tuple(description.counts) if description else {u.emotion for u in found.utterances}
    emotions = _scheme("native" if scheme in COLUMN_SCHEMES else scheme, native, name)
    kept = [u for u in found.utterances if u.emotion in emotions]
    by_column = scheme in COLUMN_SCHEMES
    labels = _column(scheme, kept, name) if by_column else set(emotions.values())
    if limit is not None:
        kept = _spread(kept, limit)
    rows = [
        {**asdict(u), "label": getattr(u, scheme) if by_column else emotions[u.emotion]}
        for u in kept
    ]
    return Corpus(
        name=name,
        root=root,
        scheme=scheme,
        labels=tuple(sorted(labels, key=natural_order)),
        utterances=pd.DataFrame(rows, columns=list(COLUMNS)),
        description=description,
        emotions=tuple(sorted(emotions, key=natural_order)),
        complete=limit is None,
        left_out=found.left_out,
    )


def _scheme(scheme: str, native: Sequence[str] | set[str], name: str) -> Mapping[str, str]:
    """Return native label → label, for the native labels that the scheme keeps."""
    if scheme == "native":
        return {emotion: emotion for emotion in native}
    for emotion in sorted(native):
        if emotion not in EMOTIONS:
            raise CorpusError(
                f"{name}: label {emotion!r} has no place in scheme 'four', expected one of "
                f"{', '.join(EMOTIONS)}.{nearest(emotion, EMOTIONS)}"
            )
    return {emotion: FOUR[emotion] for emotion in native if emotion in FOUR}


def _column(scheme: str, utterances: Sequence[Utterance], name: str) -> set[str]:
    """Return the classes of a scheme whose label is a column of the table."""
    found = [getattr(utterance, scheme) for utterance in utterances]
    if found.count(""):
        raise CorpusError(
            f"{name} cannot serve scheme {scheme!r}: {found.count('')} of {len(found)} utterances "
            f"do not say their {scheme}. Use scheme 'native', or name it for each utterance."
        )
    if len(set(found)) == 1:
        raise CorpusError(
            f"{name} cannot serve scheme {scheme!r}: every utterance is of {found[0]!r}, "
            f"expected at least two classes. Use scheme 'native'."
        )
    return set(found)


def _spread(utterances: Sequence[Utterance], limit: int) -> list[Utterance]:
    """Return at most `limit` utterances: one of each speaker and label first."""
    turn: dict[tuple[str, str], int] = {}
    order = []
    for position, utterance in enumerate(utterances):
        key = (utterance.speaker, utterance.emotion)
        turn[key] = turn.get(key, 0) + 1
        order.append((turn[key], position))
    kept = sorted(position for _, position in sorted(order)[:limit])
    return [utterances[position] for position in kept]
