"""Who said what, with which feeling: corpora, label schemes and speaker-independent folds."""

from __future__ import annotations

from servax.corpora.corpus import COLUMNS, Corpus, Fold, Verification
from servax.corpora.description import EMOTIONS, FOUR, Description, Download, Utterance
from servax.corpora.download import fetch
from servax.corpora.folds import Groups, check_groups
from servax.corpora.loading import (
    COLUMN_SCHEMES,
    NAMES,
    SCHEMES,
    FoldChoice,
    Scheme,
    Selection,
    cache_folder,
    data_folder,
    describe,
    load,
)
from servax.corpora.manifest import is_manifest, read_manifest

__all__ = [
    "COLUMNS",
    "COLUMN_SCHEMES",
    "EMOTIONS",
    "FOUR",
    "NAMES",
    "SCHEMES",
    "Corpus",
    "Description",
    "Download",
    "Fold",
    "FoldChoice",
    "Groups",
    "Scheme",
    "Selection",
    "Utterance",
    "Verification",
    "cache_folder",
    "check_groups",
    "data_folder",
    "describe",
    "fetch",
    "is_manifest",
    "load",
    "read_manifest",
]
