"""What is done with a command of a page: it is run where that is quick, and checked where not.

- ``servax …``: run in this process, unless it trains, serves, downloads, needs real recordings or a
  cluster; then it is parsed by servax's own parser.
- ``python SCRIPT …``: parsed by the script's own parser, which then stops.
- ``pip``, ``make``, ``curl``: extras, targets and routes must exist.
- Other programs are known by name, or refused: a new one wants a check of its own.

Whatever a command names below `OURS` must exist.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pages import REDIRECTIONS, ROOT

from servax.cli import main
from servax.experiments.recipe import load_recipe
from servax.service.app import ROUTES

OURS = ("recipes/", "research/", "benchmarks/", "examples/", "deploy/", "tests/")
"""Folders of the repository that commands name files of."""
QUICK = ("corpus", "purify", "attack", "audit", "report", "export")
"""Commands that are run, where their inputs allow it."""
REAL = {"ravdess", "iemocap", "emodb", "cremad", "nemo", "fsdd"}
"""Corpora that are not on every machine."""
FEW = 8
"""Utterances of an audit that is run."""
EXTERNAL = {"accelerate", "docker", "openssl", "podman", "pytest", "ray", "systemctl", "torchrun"}
"""Programs of others that no check knows more of."""


def try_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command or check it as far as that goes; a command that is wrong fails the test."""
    for word in words:
        if word.startswith(OURS) and not any(sign in word for sign in "*{"):
            assert (ROOT / word).exists(), f"{word} is not in the repository"
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program == "servax":
        _servax(arguments, capsys)
    elif program in ("python", "python3"):
        _python(arguments)
    elif program in CHECKS:
        CHECKS[program](arguments)
    else:
        assert program in EXTERNAL, f"nobody checks {program!r}: {' '.join(words)}"


def _servax(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cut = next((i for i, word in enumerate(arguments) if word in REDIRECTIONS), len(arguments))
    arguments = arguments[:cut]
    if arguments in (["--help"], ["--version"]):
        return
    if arguments[0] == "run" and arguments[1].endswith(".yaml"):
        here = Path(arguments[1])
        load_recipe(here if here.is_file() else ROOT / here)
    if not is_run(arguments):
        arguments = [*arguments, "--print_config"]
    code = main(arguments)
    assert code == 0, f"servax {' '.join(arguments)}: {capsys.readouterr().err}"
    capsys.readouterr()


def is_run(arguments: list[str]) -> bool:
    """Return whether a command of servax is run, not only parsed."""
    command = arguments[0]
    if command not in QUICK or REAL & set(arguments) or "ray" in arguments:
        return False
    if command == "corpus":
        return arguments[1] != "fetch"
    if command == "report":
        return (Path(arguments[1]) / "records").is_dir() and len(arguments) == 2
    if command == "export":  # what a later command of the page may need, and nothing that is slow
        return len(arguments) == len(("export", "PURIFIER", "-o", "FILE"))
    if command == "audit":
        return "--corpus" in arguments and (
            "--dry-run" in arguments or int(_value(arguments, "--utterances") or FEW + 1) <= FEW
        )
    return True


def _value(arguments: list[str], option: str) -> str | None:
    return arguments[arguments.index(option) + 1] if option in arguments else None


class _ParsedError(Exception):
    """A script has read its arguments, and found nothing wrong with them."""


def _python(arguments: list[str]) -> None:
    if arguments[0].startswith("-"):  # python -m, python -c, python --version
        return
    script, *given = arguments
    path = Path(script) if Path(script).is_file() else ROOT / script
    if "parse_args" not in path.read_text(encoding="utf-8"):
        assert not given, f"{script} takes no arguments"
        return
    read = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *a: object, **k: object) -> None:
        read(parser, *a, **k)  # type: ignore[call-overload]
        raise _ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *given])
        patch.syspath_prepend(str(path.parent))
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        try:
            runpy.run_path(str(path), run_name="__main__")
        except _ParsedError:
            return
        except SystemExit as refused:
            if refused.code:
                raise AssertionError(f"{script} refuses {given}") from refused
            return
    raise AssertionError(f"{script} reads no arguments")


def _pip(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in arguments:
        assert not re.match(r"servax\b", word), "nothing is published under the name"
        named = re.fullmatch(r"(?:\.|\./servax-[\w.-]+\.whl)\[([\w,-]+)\]", word)
        for extra in named[1].split(",") if named else ():
            assert extra in project["optional-dependencies"], f"servax has no extra {extra!r}"


def _make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in arguments:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"no target {target}"


def _curl(arguments: list[str]) -> None:
    places = [word for word in arguments if re.match(r"https?://", word)]
    assert places, "curl names no address"
    for place in places:
        assert urlsplit(place).path in ROUTES, f"the service has no route {urlsplit(place).path}"


def _nothing(arguments: list[str]) -> None:
    del arguments


CHECKS = {
    "pip": _pip,
    "make": _make,
    "curl": _curl,
    **dict.fromkeys(
        ("base64", "cat", "head", "ls", "cd", "export", "git", "jq", "umask"), _nothing
    ),
}
