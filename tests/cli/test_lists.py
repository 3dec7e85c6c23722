"""Lists on the command line as people write them: with commas, with spaces, before the model."""

from __future__ import annotations

import pytest

from servax.cli.audit import Audit
from servax.cli.auditing import arguments, names
from servax.cli.calibrate import Calibrate
from servax.cli.commands import arranged
from servax.cli.corpus import List
from servax.cli.run import Run
from servax.cli.sound import Purify

COMMANDS = {"audit": Audit, "calibrate": Calibrate, "purify": Purify, "run": Run, "corpus": List}

WRITTEN = [
    ("audit m --defences a b", ["m", "--defences=a,b"]),
    ("audit m --defences a,b", ["m", "--defences=a,b"]),
    ("audit m --defences a, b", ["m", "--defences=a,b"]),
    ("audit m --defences=a b", ["m", "--defences=a,b"]),
    ("audit --defences a b m", ["m", "--defences=a,b"]),
    ("audit --labels a,b m", ["m", "--labels=a,b"]),
    ("audit --labels a b --tier smoke m", ["m", "--labels=a,b", "--tier", "smoke"]),
    (
        "audit m --json --surrogates x=a y=b --seed 1",
        ["m", "--json=true", "--surrogates=x=a,y=b", "--seed", "1"],
    ),
    (
        "audit m --attacks a b --knowledge adaptive bpda",
        ["m", "--attacks=a,b", "--knowledge=adaptive,bpda"],
    ),
    ("audit m --init width=3 deep=true", ["m", "--init=width=3,deep=true"]),
    ("audit --help", ["--help"]),
    ("calibrate c m --radii .01 .02", ["c", "m", "--radii=[.01,.02]"]),
    ("calibrate c m --step-sizes [.01,.02]", ["c", "m", "--step_sizes=[.01,.02]"]),
    ("calibrate --radii .01 .02 c m", ["c", "m", "--radii=[.01,.02]"]),
]


@pytest.mark.parametrize(("written", "parsed"), WRITTEN)
def test_lists_are_taken_with_commas_and_with_spaces(written: str, parsed: list[str]) -> None:
    command, *rest = written.split()
    assert arranged(COMMANDS[command], rest) == parsed


@pytest.mark.parametrize("words", ["purify a b --out c", "run x --dry_run=true", "corpus"])
def test_other_commands_are_left_alone(words: str) -> None:
    command, *rest = words.split()
    assert arranged(COMMANDS[command], rest) == rest


def test_lists_may_stand_in_brackets() -> None:
    assert names("[mean-filter:3, quantise:4]") == ("mean-filter:3", "quantise:4")
    assert names("a=b[0]") == ("a=b[0]",)


def test_truth_values_are_those_of_json_and_of_python() -> None:
    told = arguments("deep=False,wide=true,name=False-alarm,width=16,part=a[0]")
    assert told == {
        "deep": False,
        "wide": True,
        "name": "False-alarm",
        "width": 16,
        "part": "a[0]",
    }
