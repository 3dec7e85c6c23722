"""A recipe becomes stages: train, purify, attack, score, report; each skipped when it is done."""

from servax.experiments.recipe import (
    AnyRecipe,
    CorpusChoice,
    EncoderRecipe,
    Recipe,
    load_recipe,
)
from servax.experiments.run import Finished, report_run, run

__all__ = [
    "AnyRecipe",
    "CorpusChoice",
    "EncoderRecipe",
    "Finished",
    "Recipe",
    "load_recipe",
    "report_run",
    "run",
]
