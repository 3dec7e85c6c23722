"""How far and in which direction: balls, and the one projected-ascent loop."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
