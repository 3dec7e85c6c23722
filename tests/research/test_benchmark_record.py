from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import read_all, read_record, with_figures, write_record

from servax.errors import PathError

FIGURES: dict[str, Any] = {
    "target": "vgg16",
    "groups": "tuning",
    "heard": [1, 2, 3],
    "utterances": 336,
    "undefended": {"value": 66.0, "low": 60.0, "high": 70.0},
    "clean": {"value": 65.0},
    "pgd": {"value": 50.0},
    "adaptive": [{"radius": 0.02, "steps": 100, "restarts": 5, "utterances": 144, "uar": 12.5}],
    "command": "python research/benchmark.py",
    "commit": "0123abc",
    "date": "2024-02-29",
}
RECORD: dict[str, Any] = {
    "name": "mine",
    "kind": "purifier",
    "source": "a paper",
    "knowledge": ["P0", "P2"],
    "training": {"data": "speech", "licence": "CC0"},
    "protocol": {},
    "figures": [FIGURES],
}


def written(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    given = copy.deepcopy(RECORD)
    change(given)
    path = folder / "mine.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = read_record(written(tmp_path, lambda given: None))
    assert record.figures[0].fgsm is None
    assert record.figures[0].adaptive[0].uar == 12.5
    assert write_record(record, tmp_path) == tmp_path / "mine.json"
    assert read_all(tmp_path) == [record]


def test_new_figures_take_the_place_of_old_ones(tmp_path: Path) -> None:
    record = read_record(written(tmp_path, lambda given: None))
    other = copy.deepcopy(FIGURES) | {"heard": [1]}
    again = read_record(written(tmp_path, lambda given: given.update(figures=[other])))
    assert with_figures(record, again.figures[0]) == again


def first(given: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = given["figures"][0]
    return figures


REFUSALS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda g: g.update(sorce="x"), r"unknown key 'sorce'.*Did you mean 'source'"),
    "unknown inner key": (
        lambda g: first(g).update(cleen=1),
        r"unknown key '.*cleen'.*Did you mean 'clean'",
    ),
    "missing key": (lambda g: g.pop("source"), "has no 'source', which must be given"),
    "kind": (lambda g: g.update(kind="purifyer"), "Did you mean 'purifier'"),
    "level": (lambda g: g.update(knowledge=["P4"]), "knowledge is 'P4', expected one of P0"),
    "level twice": (lambda g: g.update(knowledge=["P0", "P0"]), "expected each once"),
    "not a list": (lambda g: g.update(figures={}), "expected a list, each entry keys and values"),
    "text for a number": (lambda g: first(g).update(utterances="9"), "expected a whole number"),
    "other name": (lambda g: g.update(name="yours"), "tells of 'yours'; a file is called after"),
    "no training": (lambda g: g.pop("training"), "purifier learns from recordings"),
    "no percentage": (lambda g: first(g)["clean"].update(value=650), "from 0 to 100"),
    "interval": (lambda g: first(g)["clean"].update(low=3, high=2), "at most high"),
    "half an interval": (lambda g: first(g)["clean"].update(low=3), "null like high"),
    "not a number": (lambda g: first(g)["clean"].update(value=float("nan")), "holds NaN"),
    "alone": (lambda g: first(g).update(adaptive=[]), "never stand without adaptive ones"),
    "wrong set": (lambda g: first(g).update(heard=[4]), "heard is 4, expected a group of tuning"),
    "date": (lambda g: first(g).update(date="29.2.2024"), "a day, YYYY-MM-DD"),
    "figures twice": (lambda g: g["figures"].append(g["figures"][0]), "expected each once"),
    "both sets": (lambda g: g["protocol"].update(held_out=[3]), "groups that are not for tuning"),
    "no such group": (lambda g: g["protocol"].update(held_out=[7]), "groups from 1 to 6"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_wrong_entry_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    change, sentence = REFUSALS[case]
    path = written(tmp_path, change)
    with pytest.raises(PathError, match=sentence) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON"), ("[]", "a JSON object")])
def test_what_is_no_entry_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PathError, match=sentence):
        read_record(path)
    with pytest.raises(PathError, match="cannot be read"):
        read_record(tmp_path / "none.json")
