"""The pages of the documentation, the code blocks on them, and the commands in these.

A block is what stands between two fences. One with a title that is a file name
(``python title="my_models.py"``) is a file that the reader saves; a line ``--8<-- "FILE"`` stands
for the file, as in the site.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`]*)$")
SNIPPET = re.compile(r'^--8<-- "(?P<file>[^"]+)"$', flags=re.MULTILINE)
ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", flags=re.DOTALL)
BETWEEN = ";&|()"
"""Signs that end a command, alone or several of them."""
REDIRECTIONS = {">", ">>", "<"}


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    """Path of the page below the repository."""
    line: int
    """Where its first fence stands, from 1."""
    info: str
    """What stands behind the first fence."""
    text: str

    @property
    def language(self) -> str:
        """Return the first word of the info string, without the signs of an attribute list."""
        return self.info.strip(" {}").split(" ")[0].lstrip(".") if self.info.strip() else ""

    @property
    def file(self) -> str | None:
        """Return the name of the file that the block shows, if it shows one."""
        found = re.search(r'title="([\w./-]+\.\w+)"', self.info)
        return found[1] if found else None

    @property
    def snippets(self) -> list[str]:
        """Return the files that stand in the block by name."""
        return SNIPPET.findall(self.text)

    @property
    def place(self) -> str:
        """Return where the block stands, for messages."""
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    found: list[Block] = []
    opened: tuple[re.Match[str], int] | None = None
    lines: list[str] = []
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened, lines = (fence, number), []
            continue
        begun, start = opened
        if fence and fence["fence"].startswith(begun["fence"]) and not fence["info"].strip():
            text = "".join(f"{each.removeprefix(begun['indent'])}\n" for each in lines)
            found.append(Block(name, start, begun["info"].strip(), text))
            opened = None
        else:
            lines.append(line)
    assert opened is None, f"{name}:{opened and opened[1]}: a block without an end"
    return found


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block as words; variables that it sets are put in."""
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        for words in _split(line):
            words = [_filled(word, variables) for word in words]
            while words and (set_ := ASSIGNMENT.fullmatch(words[0])):
                variables[set_["name"]] = set_["value"]
                words = words[1:]
            if words:
                yield words


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=f"{BETWEEN}<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    command: list[str] = []
    for word in lexer:
        if not word.strip(BETWEEN):
            yield command
            command = []
        else:
            command.append(word)
    yield command


def _filled(word: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        word = re.sub(rf"\$\{{{name}\}}|\${name}\b", lambda _, value=value: value, word)
    return word
