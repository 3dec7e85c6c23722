"""A recipe becomes stages: train, purify, attack, score, report; each skipped when it is done."""

from servax.experiments.choices import CorpusChoice
from servax.experiments.recipe import Recipe, load_recipe
from servax.experiments.run import Finished, report_run, run
from servax.experiments.stages import Silence, Watcher

__all__ = [
    "CorpusChoice",
    "Finished",
    "Recipe",
    "Silence",
    "Watcher",
    "load_recipe",
    "report_run",
    "run",
]
