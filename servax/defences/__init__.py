"""What stands in front of a classifier, or how it is trained: purifiers, controls, objectives."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
