from .corpus import COLUMNS as COLUMNS, Corpus as Corpus, Fold as Fold, Verification as Verification
from .description import (
    EMOTIONS as EMOTIONS,
    FOUR as FOUR,
    Description as Description,
    Download as Download,
    Utterance as Utterance,
)
from .download import fetch as fetch
from .folds import Groups as Groups, check_groups as check_groups
from .loading import (
    COLUMN_SCHEMES as COLUMN_SCHEMES,
    NAMES as NAMES,
    SCHEMES as SCHEMES,
    FoldChoice as FoldChoice,
    Scheme as Scheme,
    Selection as Selection,
    cache_folder as cache_folder,
    data_folder as data_folder,
    describe as describe,
    load as load,
)
from .manifest import is_manifest as is_manifest, read_manifest as read_manifest
