"""What models see: differentiable log-Mel, the [0, 1] scale, and batches from a cache."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
