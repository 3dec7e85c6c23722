"""A report as one HTML file that needs nothing else: no script, no font, no picture from outside.

All text passes jinja2's autoescape; the pictures are embedded as base64.
"""

from __future__ import annotations

import base64
from importlib import resources

from jinja2 import Environment, StrictUndefined

from servax.report.content import Content

__all__ = ["render"]

_TEMPLATE = "page.html.jinja"


def render(content: Content) -> str:
    """Return the whole report as one HTML page."""
    source = resources.files("servax.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.from_string(source).render(content=content)
