"""Trained networks that come with servax: a folder each, with weights, settings, a model card."""

from servax.pretrained.packaged import (
    PURIFIER,
    RECOGNISER,
    Role,
    folder,
    names,
    no_such_folder,
    resolve,
)

__all__ = ["PURIFIER", "RECOGNISER", "Role", "folder", "names", "no_such_folder", "resolve"]
