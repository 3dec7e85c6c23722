"""Bridges to attacks of other libraries: any of theirs, named by its class path."""

from servax.attacks.outside import presets
from servax.attacks.outside.bridge import Outside

__all__ = ["Outside", "presets"]
