"""What options may be, where several commands have them."""

from __future__ import annotations

from typing import Literal

Scheme = Literal["native", "four"]
"""A label scheme."""
