"""What ``--fail-under`` asks, the JUnit file, the first paragraph, and too few speakers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from audit_by_hand import CARD, MEASURES, RIGHT, frame, make_result
from bootstrap_by_hand import speaker_interval

from servax.errors import SettingError
from servax.evaluation.checks import Finding
from servax.evaluation.metrics import uar
from servax.evaluation.records import Records
from servax.report.audit import demand_of, main_table, summary, verdict, write_audit
from servax.report.audit_tables import targeted_table

PASSED = Finding("evaluation-mode", "ssad", "passed", "It is in evaluation mode.", {})
SHUT = Finding(
    "white-box",
    "undefended",
    "warning",
    "Black box only: no white-box attack was possible, since it has no gradients.",
    {},
)
ALONE = {key: kept for key, kept in RIGHT.items() if key[0] == "undefended"}


@pytest.mark.parametrize(
    ("text", "found"),
    [("40", (40.0, "uar")), ("lower:12.5", (12.5, "lower")), ("lost:0", (0.0, "lost"))],
)
def test_a_demand_is_a_number_and_what_it_is_of(text: str, found: tuple[float, str]) -> None:
    assert demand_of(text) == found


@pytest.mark.parametrize("text", ["", "ten", "101", "-1", "nan", "higher:3", "lost:", ":40", "inf"])
def test_a_demand_without_meaning_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^fail_under is .*lower:40 .* lost:10"):
        demand_of(text)


def by_slow_bootstrap() -> float:
    """Return the lower end, in percent, of ssad's worst case, from the records alone."""
    rows = frame()
    rows = rows[(rows["defence"] == "ssad") & (rows["strength"] <= 0.02)]
    rows = rows[~rows["attack"].str.contains("waveform")]
    wrong = set(rows[rows["label"] != rows["prediction"]]["utterance"])
    one = rows[rows["attack"] == "none"]
    truth = one["label"].to_numpy(object)
    said = np.where(one["utterance"].isin(wrong), "-", truth)
    return (
        100
        * speaker_interval(
            lambda picked: uar(truth[picked], said[picked]),
            one["speaker"].to_numpy(object).astype(str),
            generator=np.random.default_rng(0),
        ).low
    )


@pytest.mark.parametrize(
    ("measure", "asked", "short"),
    [
        # Worst cases: ssad 12.5 of 75.0 %, pgd-at 25.0 of 62.5 %.
        ("uar", 12.5, {}),
        ("uar", 12.6, {"ssad": "keeps 12.5\N{NO-BREAK SPACE}%"}),
        ("lost", 62.5, {}),
        ("lost", 62.4, {"ssad": "loses 62.5 points"}),
        ("lost", 10.0, {"ssad": "loses 62.5 points", "pgd-at": "loses 37.5 points"}),
        ("lower", by_slow_bootstrap(), {}),
    ],
)
def test_a_demand_is_of_the_worst_case_its_lower_end_or_the_loss(
    measure: Any, asked: float, short: dict[str, str]
) -> None:
    result = make_result(findings=(PASSED,), fail_under=asked, judged_by=measure)
    assert result.below == short
    assert result.passes == (not short)
    last = verdict(result)[-1]
    assert last.startswith("Failed" if short else "Passed")
    assert all(f"{name} {kept}" in last for name, kept in short.items())


def test_a_lower_end_above_zero_is_asked_for() -> None:
    kept = dict.fromkeys(RIGHT, "11111111")
    result = make_result(kept, findings=(PASSED,), fail_under=100.0, judged_by="lower")
    assert result.passes
    kept[("ssad", "pgd", 0.02, "adaptive")] = "01111111"
    result = make_result(kept, findings=(PASSED,), fail_under=80.0, judged_by="lower")
    found = result
    worst = found.worst("ssad")
    assert worst is not None
    assert worst.uar > 0.8 > worst.low
    assert list(found.below) == ["ssad"]


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({"findings": (PASSED,)}, None),
        ({}, None),
        ({"findings": (PASSED,), "fail_under": 0.0}, True),
        ({"findings": (PASSED,), "fail_under": 50.0}, False),
        ({"fail_under": 0.0}, False),
        ({"findings": (PASSED, SHUT), "fail_under": 0.0}, False),
    ],
)
def test_passed_is_null_where_nothing_was_asked(
    tmp_path: Path, changes: dict[str, Any], passed: bool | None
) -> None:
    told = json.loads(
        (write_audit(make_result(**changes), tmp_path).folder / "audit.json").read_text("utf-8")
    )
    assert told["passed"] is passed


def test_black_box_only_is_said_first_and_passes_nothing(tmp_path: Path) -> None:
    result = make_result(ALONE, findings=(PASSED, SHUT), fail_under=0.0)
    found = result
    assert verdict(found)[0] == summary(found)[0] == SHUT.statement
    assert verdict(found)[-1].endswith("but no white-box attack was possible.")
    assert result.untrusted
    assert not make_result(ALONE, findings=(PASSED, SHUT)).untrusted
    paths = write_audit(result, tmp_path)
    told = json.loads((paths.folder / "audit.json").read_text("utf-8"))
    assert told["verdict"][0] == told["summary"][0] == SHUT.statement
    first = paths.markdown.read_text("utf-8").split("\n\n")[1]
    assert first.startswith(SHUT.statement)


def test_junit_has_a_case_per_check_and_demand(tmp_path: Path) -> None:
    odd = Finding("planted", "ssad", "error", "A <tag> & a\x00 zero byte.", {"name": "\x1b[1m"})
    findings = (*make_result().findings, odd)
    result = make_result(findings=findings, fail_under=20.0)
    path = write_audit(result, tmp_path).folder / "audit.junit.xml"
    suite = ET.fromstring(path.read_bytes())
    cases = {(case.get("classname"), case.get("name")): case for case in suite}
    assert len(cases) == len(suite) == int(suite.attrib["tests"]) == len(findings) + 2
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    assert {name for _, name in failed} == {
        "planted",
        "planted 2",
        "ssad has to keep at least 20.0 % UAR in the worst case",
        "pgd-at has to keep at least 20.0 % UAR in the worst case",  # checks found errors
    }
    assert int(suite.attrib["failures"]) == len(failed)
    assert [name for name, case in cases.items() if case.find("skipped") is not None] == [
        ("ssad", "deterministic")
    ]
    message = cases["ssad", "planted 2"].find("failure")
    assert message is not None
    assert message.get("message") == "A <tag> & a\N{REPLACEMENT CHARACTER} zero byte."
    demand = cases["fail-under", "ssad has to keep at least 20.0 % UAR in the worst case"]
    assert "keeps 12.5 %" in str(demand.find("failure").get("message"))  # type: ignore[union-attr]
    write_audit(make_result(), tmp_path)
    assert {case.get("classname") for case in ET.parse(path).getroot()} == {"ssad"}


NOTHING = {key: kept for key, kept in ALONE.items() if key[1] == "none"}
MOST = NOTHING | {("undefended", "pgd", 0.02, "adaptive"): "10001000"}  # 1/4 of 7/8
SOME = NOTHING | {("undefended", "pgd", 0.02, "adaptive"): "11011100"}  # 5/8 of 7/8
NONE = NOTHING | {("undefended", "pgd", 0.02, "adaptive"): "11111110"}
GUESS = {
    ("undefended", "none", 0.0, "none"): "10100110",
    **{k: ALONE[k] for k in ALONE if k[1] == "pgd"},
}


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (
            ALONE,
            "This model is easily fooled: a change of the spectrogram that hardly anyone would "
            "hear turns every answer wrong.",
        ),
        (MOST, "This model is easily fooled: .* turns 71 of 100 right answers wrong"),
        (SOME, "This model can be fooled: .* turns 29 of 100 right answers wrong"),
        (NONE, "None of the attacks that were tried fooled this model"),
        (NOTHING, "Nobody attacked this model, so nothing is known of its safety"),
        (GUESS, "This model may be guessing even where nobody attacks it"),
    ],
)
def test_the_first_paragraph_is_graded_by_the_figures(right: Any, said: str) -> None:
    result = make_result(right, findings=(PASSED,), realisability=None)
    first = summary(result)[0]
    assert re.match(said, first), first
    assert not any(term in first for term in ("UAR", "adaptive", "ε", "dB", "oblivious"))


def test_the_first_paragraph_says_what_a_defence_is_worth() -> None:
    result = make_result(findings=(PASSED,))
    told = summary(result)[-1]
    # Kept: pgd-at 25.0 of 62.5 %, the model alone nothing.
    assert told == (
        "The best of its 2 defences, pgd-at, helps against an attacker who knows it: it keeps 40 "
        "of 100 right answers, the model alone 0 of 100."
    )
    lost = RIGHT | {(name, "pgd", 0.02, "adaptive"): "00000000" for name in ("ssad", "pgd-at")}
    result = make_result(lost, findings=(PASSED,))
    assert "does not protect it from an attacker who knows it" in summary(result)[-1]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (45.0, "a change that nobody hears"),
        (30.0, "a change that hardly anyone hears"),
        (17.0, "a faint noise"),
        (3.0, "a noise that everyone hears"),
    ],
)
def test_how_loud_the_change_is_stands_in_words(ratio: float, words: str) -> None:
    card = CARD | {"model": {"inputs": "waveform"}, "radius in dB": None}
    measures = MEASURES.assign(defence="undefended", median_snr_db=ratio)
    result = make_result(ALONE, findings=(PASSED,), card=card, measures=measures)
    assert words in summary(result)[0]


def test_an_error_of_a_check_leads_the_first_paragraph() -> None:
    result = make_result()
    assert summary(result)[0] == (
        "Do not rely on these figures: a check of this audit found an error."
    )


def test_the_first_paragraph_and_the_terms_stand_before_the_figures(tmp_path: Path) -> None:
    paths = write_audit(make_result(findings=(PASSED,)), tmp_path)
    for text in (paths.markdown.read_text("utf-8"), paths.html.read_text("utf-8")):
        plain, exact = text.index("This model is"), text.index("An attacker who knows the defence")
        terms = [text.index(f"{word}: the attacker") for word in ("Oblivious", "BPDA", "Adaptive")]
        terms += [text.index("UAR, unweighted average recall, is"), text.index("Worst case: an")]
        assert plain < min(terms)
        assert max(terms) < exact


@pytest.mark.parametrize("speakers", ["ssssssss", "stststst", "stuvstuv"])
def test_below_five_speakers_there_is_no_interval_and_the_reason_is_said(
    tmp_path: Path, speakers: str
) -> None:
    rows = frame()
    who = dict(zip([f"u{i}" for i in range(8)], speakers, strict=True))
    few = rows.assign(speaker=pd.Series(rows["utterance"]).map(who))
    result = make_result(records=Records(few, {"classes": ["a", "b"]}))
    paths = write_audit(result, tmp_path)
    told = json.loads((paths.folder / "audit.json").read_text("utf-8"))
    assert {s["worst_case"]["low"] for s in told["systems"]} == {None}
    count = len(set(speakers))
    assert told["no_interval"].startswith(f"There is no interval: {count} speaker")
    assert told["no_interval"] in told["verdict"]
    table = main_table(result)
    assert told["no_interval"] in table.note
    assert not any("[" in cell.text for row in table.rows for cell in row)
    assert told["no_interval"] in paths.markdown.read_text("utf-8")


def test_five_speakers_have_an_interval(tmp_path: Path) -> None:
    told = json.loads(
        (write_audit(make_result(), tmp_path).folder / "audit.json").read_text("utf-8")
    )
    assert told["no_interval"] is None
    assert told["systems"][1]["clean"]["low"] <= told["systems"][1]["clean"]["uar"]


def test_success_rates_of_a_chosen_class_are_in_table_sentence_and_json(tmp_path: Path) -> None:
    rows = [
        {"attack": f"towards-{name}", "towards": name, "success_rate": rate, "attacked": 6}
        for name, rate in (("a", 0.5), ("b", 1.0))
    ]
    common = {"defence": "ssad", "knowledge": "adaptive", "strength": 0.02}
    measures = pd.concat([MEASURES, pd.DataFrame([row | common for row in rows])])
    right = RIGHT | {("ssad", "towards-a", 0.02, "adaptive"): "11110000"}
    result = make_result(right, findings=(PASSED,), measures=measures)
    table = targeted_table(result)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["ssad", "a", "adaptive", "50.0", "6", "–"],
        ["ssad", "b", "adaptive", "100.0", "6", "–"],
    ]
    told = json.loads((write_audit(result, tmp_path).folder / "audit.json").read_text("utf-8"))
    sentence = "ssad gives it in 50.0 % (a) to 100.0 % (b) of the attempts."
    assert any(said.endswith(sentence) for said in told["verdict"])
    ssad = next(system for system in told["systems"] if system["name"] == "ssad")
    rates = {row["attack"]: row["success_rate"] for row in ssad["attacks"]}
    assert (rates["towards-a"], rates["pgd"]) == (0.5, None)
    assert not targeted_table(make_result()).rows
