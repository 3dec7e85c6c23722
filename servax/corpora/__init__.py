"""Who said what, with which feeling: corpora, label schemes and speaker-independent folds."""

from __future__ import annotations

from servax.corpora.corpus import COLUMNS, Corpus
from servax.corpora.description import Description, Utterance
from servax.corpora.fetching import fetch
from servax.corpora.fold import Fold
from servax.corpora.folders import cache_folder, data_folder
from servax.corpora.loading import NAMES, SCHEMES, describe, load
from servax.corpora.verification import Verification

__all__ = [
    "COLUMNS",
    "NAMES",
    "SCHEMES",
    "Corpus",
    "Description",
    "Fold",
    "Utterance",
    "Verification",
    "cache_folder",
    "data_folder",
    "describe",
    "fetch",
    "load",
]
