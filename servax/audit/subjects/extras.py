"""Libraries that only some kinds of models need."""

from __future__ import annotations

from servax.runtime.extras import load_extra, quiet

__all__ = ["load_extra", "quiet"]
