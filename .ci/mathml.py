"""Turns the formulas of the documentation into MathML when the site is built.

`pymdownx.arithmatex` marks them (`generic: true`); browsers draw MathML themselves, so that the
site needs no script for them, from here or from anywhere else. The number of a tagged formula
stands at the right, by `docs/stylesheets/site.css`. A formula that cannot be read ends the
build.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>',
    flags=re.DOTALL,
)
NUMBER = re.compile(r"\\tag\{(.+?)\}")


def on_page_content(content: str, page: object, **_: object) -> str:
    """Return the HTML of a page with MathML in place of marked formulas."""
    return MARKED.sub(lambda found: _drawn(found, page), content)


def _drawn(found: re.Match[str], page: object) -> str:
    latex = html.unescape(found["latex"]).strip()
    number = NUMBER.search(latex)
    display = "block" if found["tag"] == "div" else "inline"
    try:
        formula = convert(NUMBER.sub("", latex), display=display)
    except Exception as error:  # The converter raises many kinds.
        raise PluginError(f"{page}: {latex!r} cannot be read ({error!r})") from error
    if "\\" in formula:
        raise PluginError(f"{page}: {latex!r} has a command that MathML does not get")
    aside = f"<span>({number[1]})</span>" if number else ""
    return f'<{found["tag"]} class="formula">{formula}{aside}</{found["tag"]}>'
