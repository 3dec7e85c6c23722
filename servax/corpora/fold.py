"""A fold: what trains, what validates, what tests; checked for leaks when it is built."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from servax.corpora.leaks import Apart, refuse_leaks
from servax.errors import CorpusError, FetchError, unwritable
from servax.files import json_text, whole_file

if TYPE_CHECKING:
    from servax.corpora.corpus import Corpus

__all__ = ["Fold"]

FORMAT = "servax fold 1"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Fold:
    """One split of a corpus, speaker-independent unless `apart` says otherwise.

    Raises:
        LeakError: An identical recording, or what `apart` names, stands in two parts.
    """

    index: int
    """Position among the folds, from 0."""
    train: Corpus
    """Utterances that weights and scales may be fitted on."""
    validation: Corpus
    """Utterances that decide when to stop."""
    test: Corpus
    """Utterances that are only ever scored."""
    apart: Apart = "speaker"
    """``speaker``, ``text`` (no tested text is heard in training) or ``utterance``."""

    def __post_init__(self) -> None:
        refuse_leaks({part: getattr(self, part) for part in PARTS}, apart=self.apart)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the utterances of each part; equal splits have equal hashes."""
        return _hash({part: list(getattr(self, part).utterances["utterance"]) for part in PARTS})

    def save(self, path: str | Path) -> None:
        """Write the split as JSON; the file appears whole or not at all.

        Raises:
            FetchError: The file cannot be written.
        """
        path = Path(path)
        record: dict[str, Any] = {
            "format": FORMAT,
            "corpus": self.train.name,
            "scheme": self.train.scheme,
            "index": self.index,
            "hash": self.hash,
        }
        if self.apart != "speaker":
            record["apart"] = self.apart  # the default is not named: the files stay as they were
        record |= {part: list(getattr(self, part).utterances["utterance"]) for part in PARTS}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                part.write_text(json_text(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise FetchError(f"{path}: {unwritable(error)}.") from None

    @classmethod
    def load(cls, path: str | Path, corpus: Corpus) -> Fold:
        """Return the split that `save` wrote, over `corpus`.

        Raises:
            CorpusError: The file is missing, is no fold, was edited, or names utterances that
                `corpus` does not have.
            LeakError: As the constructor.
        """
        path = Path(path)
        record = _read_record(path)
        if record["corpus"] != corpus.name:
            raise CorpusError(
                f"{path}: is a fold of {record['corpus']!r}, it cannot split {corpus.name!r}."
            )
        if _hash({part: record[part] for part in PARTS}) != record["hash"]:
            raise CorpusError(f"{path}: its hash does not fit its utterances, make the fold again.")
        known = corpus.utterances["utterance"]
        parts: dict[str, Corpus] = {}
        for part in PARTS:
            missing = sorted(set(record[part]) - set(known))
            if missing:
                raise CorpusError(
                    f"{path}: {len(missing)} utterances of {part} are not in this corpus, "
                    f"first {missing[0]!r}: load the corpus with scheme {record['scheme']!r}."
                )
            parts[part] = corpus.subset(np.asarray(known.isin(record[part])))
        return cls(record["index"], **parts, apart=record.get("apart", "speaker"))


def _hash(parts: dict[str, list[str]]) -> str:
    """Return SHA-256 over sorted utterance names, part by part."""
    canonical = json.dumps([[part, sorted(parts[part])] for part in PARTS])
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    """Return the JSON of a fold after checking the type of every entry."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:
        raise CorpusError(f"{path}: is not JSON, expected a file written by Fold.save.") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CorpusError(f"{path}: is not a fold, expected a file written by Fold.save.")
    kinds = {"corpus": str, "scheme": str, "index": int, "hash": str} | dict.fromkeys(PARTS, list)
    for key, kind in kinds.items():
        value = record.get(key)
        if not isinstance(value, kind) or (
            isinstance(value, list) and not (value and all(isinstance(v, str) for v in value))
        ):
            raise CorpusError(f"{path}: its entry {key!r} is missing or malformed.")
    if record.get("apart", "speaker") not in get_args(Apart):
        raise CorpusError(f"{path}: its entry 'apart' is missing or malformed.")
    return record
