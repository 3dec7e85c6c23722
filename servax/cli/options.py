"""What options may be, where several commands have them."""

from __future__ import annotations

from typing import Literal

Scheme = Literal["native", "four", "speaker", "gender"]
"""A label scheme."""
Groups = int | str
"""How a corpus is divided into folds; `Corpus.folds` refuses other words in a better sentence."""
