"""Who said what, with which feeling: corpora, label schemes and speaker-independent folds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
