"""The report of an audit: worst cases by hand and by pandas, the pages, JSON, what is refused."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from audit_by_hand import RIGHT, SPEECH, frame, make_clip, make_result
from bootstrap_by_hand import speaker_interval

from servax.errors import ServaxError, SettingError, ShapeError
from servax.evaluation.checks import Finding
from servax.evaluation.metrics import uar
from servax.evaluation.records import KNOWING
from servax.report import ReportPaths
from servax.report.audit import curve, document, main_table, picture, verdict, write_audit
from servax.report.audit_result import UNKNOWING, AuditResult
from servax.report.audit_tables import attack_table, detection_table, speech_table

UNDEFENDED = {key: kept for key, kept in RIGHT.items() if key[0] == "undefended"}
CLEAN = {key: kept for key, kept in RIGHT.items() if key[1] == "none"}
PASSED = Finding("eval-mode", "ssad", "passed", "It is in eval mode.", {})

WORST = {
    ("undefended", "adaptive"): 0,
    ("ssad", "oblivious"): 1 / 2,
    ("ssad", "transfer"): 5 / 8,
    ("ssad", "black_box"): 5 / 8,
    ("ssad", "bpda"): 1 / 2,
    ("ssad", "adaptive"): 1 / 8,
    ("pgd-at", "oblivious"): 3 / 8,
    ("pgd-at", "adaptive"): 3 / 8,
}
OF_ALL = {"undefended": 0, "ssad": 1 / 8, "pgd-at": 1 / 4}


def by_pandas(system: str, knowledge: list[str]) -> float:
    rows = frame()
    rows = rows[(rows["defence"] == system) & rows["knowledge"].isin(knowledge)]
    rows = rows[(rows["strength"] <= 0.02) & ~rows["attack"].str.contains("waveform")]
    right = rows.assign(right=rows["label"] == rows["prediction"])
    kept = right.groupby(["label", "utterance"])["right"].min()
    return float(kept.astype(float).groupby("label").mean().mean())


@pytest.fixture
def written(tmp_path: Path) -> ReportPaths:
    return write_audit(make_result(fail_under=10.0), tmp_path / "report")


@pytest.mark.parametrize(("system", "knowledge"), WORST)
def test_worst_case_of_a_knowledge(system: str, knowledge: str) -> None:
    found = make_result().worst(system, [knowledge])
    assert found is not None
    assert found.uar == pytest.approx(WORST[system, knowledge])
    assert found.uar == pytest.approx(by_pandas(system, [knowledge]))
    assert found.low <= found.uar <= found.high


@pytest.mark.parametrize("system", OF_ALL)
def test_worst_case_of_all(system: str) -> None:
    found = make_result().worst(system)
    assert found is not None
    assert found.uar == pytest.approx(OF_ALL[system])
    everyone = ["oblivious", "transfer", "black_box", "bpda", "adaptive"]
    assert found.uar == pytest.approx(by_pandas(system, everyone))


def test_nobody_tried_is_not_a_number() -> None:
    found = make_result()
    assert found.worst("undefended", ["oblivious"]) is None
    assert found.worst("pgd-at", ["black_box"]) is None


def test_intervals_are_those_of_the_slow_bootstrap() -> None:
    found = make_result().clean("ssad")
    rows = frame()
    rows = rows[(rows["defence"] == "ssad") & (rows["attack"] == "none")]
    truth, said = rows["label"].to_numpy(object), rows["prediction"].to_numpy(object)
    slow = speaker_interval(
        lambda picked: uar(truth[picked], said[picked]),
        rows["speaker"].to_numpy(object).astype(str),
        generator=np.random.default_rng(0),
    )
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))


def sentences_of(right: Any) -> list[str]:
    result = make_result(right)
    return [s.replace("\N{NO-BREAK SPACE}", " ") for s in verdict(result)]


def test_first_sentence_says_what_one_who_knows_leaves() -> None:
    first, second, *_ = sentences_of(ONLY_SSAD)
    # Without knowing 3/8, undefended 0: a gain of 37.5 points; 12.5 are left.
    assert first == (
        "An attacker who knows ssad leaves it 12.5 % UAR at ε .02 (1.6 dB): 25.0 of the 37.5 "
        "points that it gains over the undefended model against attackers who do not know it are "
        "lost."
    )
    assert "ssad keeps 37.5 %, of 75.0 % on clean input" in second
    assert "the undefended model keeps 0.0 % in the worst case, of 87.5 %" in second
    assert "chance is 50.0 %" in second


def test_first_sentence_names_every_defence() -> None:
    first, second, *rest = sentences_of(RIGHT)
    # pgd-at: without knowing 3/8, of which 1/4 is left.
    assert first == (
        "An attacker who knows the defence leaves ssad 12.5 % and pgd-at 25.0 % UAR at ε .02 "
        "(1.6 dB): 25.0 of 37.5 and 12.5 of 37.5 points that they gain over the undefended model "
        "against attackers who do not know them are lost."
    )
    assert "ssad 37.5 % of 75.0 % on clean input and pgd-at 37.5 % of 62.5 %" in second
    assert not any(sentence.startswith("The worst case over all attacks") for sentence in rest)
    broken = LOST | {key: kept for key, kept in RIGHT.items() if key[0] == "pgd-at"}
    broken |= {("pgd-at", "pgd", 0.02, "adaptive"): "00000000"}
    assert ": all of the 37.5 and 37.5 points that they gain" in sentences_of(broken)[0]


ONLY_SSAD = {key: kept for key, kept in RIGHT.items() if key[0] != "pgd-at"}
ASKED = {key: kept for key, kept in ONLY_SSAD.items() if key[3] in ("none", "black_box")}
KNOWN = {key: kept for key, kept in ONLY_SSAD.items() if key[3] not in UNKNOWING}
NO_GAIN = ONLY_SSAD | {("ssad", "pgd", 0.02, "oblivious"): "00000000"}
LOST = ONLY_SSAD | {("ssad", "pgd", 0.02, "adaptive"): "00000000"}
HARMLESS = {key: "11111100" if key[0] == "ssad" else kept for key, kept in ONLY_SSAD.items()}


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (UNDEFENDED, r"^The worst case over 2 attacks leaves the undefended model \(vgg16\) 0.0 %"),
        (ASKED, r"^An attacker who can only ask ssad .* 62.5 % .* no attacker who knows it was"),
        (KNOWN, r"^An attacker who knows ssad leaves it 12.5 % UAR at .*, of 75.0 % on clean"),
        (NO_GAIN, r"^An attacker who knows ssad leaves it 0.0 % .* gains nothing over the undef"),
        (LOST, r"^An attacker who knows ssad leaves it 0.0 % .*: all of the 37.5 points"),
        (HARMLESS, r"^An attacker who knows ssad leaves it 75.0 % .*: none of the 75.0 points"),
        (CLEAN, r"^No attack was tried.* No attack was tried on ssad and pgd-at"),
    ],
)
def test_first_sentence_of_other_audits(right: Any, said: str) -> None:
    if right is HARMLESS:
        right = {key: kept for key, kept in right.items() if key[2] <= 0.02}
    result = make_result(right)
    first = verdict(result)[0].replace("\N{NO-BREAK SPACE}", " ")
    assert re.search(said, first), first


def test_verdict_tells_checks_and_sound() -> None:
    text = " ".join(verdict(make_result()))
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "1 error, 1 warning, 1 passed and 1 not measured" in text
    assert "cannot be trusted" in text
    assert "leaves 50.0 % instead of 25.0 %; the same way, without attack, leaves 62.5 %" in text
    known = {key: kept for key, kept in RIGHT.items() if key[3] not in UNKNOWING}
    assert "The worst case over all attacks leaves ssad 12.5 %." in sentences_of(known)


@pytest.mark.parametrize(
    ("right", "findings", "fail_under", "ok"),
    [
        (RIGHT, (PASSED,), None, True),
        (RIGHT, (PASSED,), 12.5, True),
        (RIGHT, (PASSED,), 12.6, False),
        (UNDEFENDED, (PASSED,), 0.0, True),
        (UNDEFENDED, (PASSED,), 0.1, False),
        (CLEAN, (PASSED,), 62.5, True),
        (CLEAN, (PASSED,), 70.0, False),
    ],
)
def test_fail_under(right: Any, findings: Any, fail_under: float | None, ok: bool) -> None:
    result = make_result(right, findings=findings, fail_under=fail_under)
    assert result.passes is ok
    last = verdict(result)[-1]
    assert fail_under is None or last.startswith("Passed" if ok else "Failed")


def test_an_error_of_a_check_fails() -> None:
    assert not make_result().passes
    result = make_result(fail_under=0.0)
    assert "checks found 1 error" in verdict(result)[-1]


@pytest.mark.parametrize("also", [(), (("ssad", "noise", 0.02, "black_box"),)])
@pytest.mark.parametrize("known", ["oblivious", "transfer"])
def test_refuses_those_who_do_not_know_alone(tmp_path: Path, known: str, also: Any) -> None:
    right = {k: v for k, v in RIGHT.items() if k[0] != "ssad" or k[3] in ("none", known)}
    right |= {key: RIGHT[key] for key in also}
    with pytest.raises(ServaxError, match=f"ssad has {known} results and no adaptive, BPDA or"):
        write_audit(make_result(right), tmp_path)
    with pytest.raises(ServaxError, match="never printed alone"):
        assert make_result(right).passes
    assert not list(tmp_path.iterdir())


def test_refuses_a_system_without_clean_predictions() -> None:
    right = {key: kept for key, kept in RIGHT.items() if key[:2] != ("ssad", "none")}
    with pytest.raises(ServaxError, match="no predictions of ssad for 'none'"):
        assert make_result(right).passes


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"kind": "loud"}, SettingError, "kind is 'loud', expected one of attacked"),
        ({"waveform": np.zeros((1, 8), np.float32)}, ShapeError, r"expected \(T,\)"),
        ({"waveform": np.array([np.nan], np.float32)}, SettingError, "finite samples"),
        ({"sample_rate": 0}, SettingError, "sample_rate is 0"),
    ],
)
def test_refuses_a_clip(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make_clip(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"radius": 0.0}, "radius is 0.0"), ({"fail_under": 101.0}, "a UAR in percent")],
)
def test_refuses_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        make_result(**changes)


def test_main_table() -> None:
    table = main_table(make_result())
    assert [head.text for head in table.head] == [
        *("system", "clean", "oblivious", "transfer", "black box", "BPDA", "adaptive"),
        "worst of all",
    ]
    cells = {row[0].text: [cell.text.split(" ")[0] for cell in row[1:]] for row in table.rows}
    assert cells == {
        "undefended": ["87.5", "–", "–", "–", "–", "0.0", "0.0"],
        "ssad": ["75.0", "50.0", "62.5", "62.5", "50.0", "12.5", "12.5"],
        "pgd-at": ["62.5", "37.5", "–", "–", "–", "37.5", "25.0"],
    }
    best = {row[0].text: row[-1].best for row in table.rows}
    assert best == {"undefended": False, "ssad": False, "pgd-at": True}


def test_attack_table_has_each_attack_once_at_its_audited_strength() -> None:
    table = attack_table(make_result())
    assert table is not None
    assert table.numbers is not None
    rows = [tuple(cell.text for cell in row) for row in table.rows]
    names = [row[:3] for row in rows]
    assert len(set(names)) == len(names) == len({(d, a, k) for d, a, _, k in RIGHT if a != "none"})
    pgd = rows[names.index(("ssad", "pgd", "adaptive"))]
    assert pgd[3:] == (".02", "1.6", "25.0", "30.2", "–", "31.5", "0.0", "12.0")
    sound = rows[names.index(("ssad", "pgd-waveform-30dB", "adaptive"))]
    assert sound[4:6] == ("–", "0.0")
    assert len(table.numbers) == len(RIGHT) - len(CLEAN)


def test_curve_is_the_worst_case_up_to_each_size() -> None:
    found = make_result()
    assert curve(found, "ssad", KNOWING) == [(0.0, 75.0), (0.01, 37.5), (0.02, 12.5)]
    assert curve(found, "ssad", UNKNOWING) == [(0.0, 75.0), (0.01, 75.0), (0.02, 37.5)]
    assert curve(found, "pgd-at", ["black_box"]) == []


def test_no_picture_without_an_attack() -> None:
    result = make_result(CLEAN)
    assert picture(result) is None
    result = make_result(UNDEFENDED)
    drawn = picture(result)
    assert drawn is not None
    assert drawn.png.startswith(b"\x89PNG")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open == "h2":
            self.headings.append(data.strip())
        self._open = ""


def parsed(paths: ReportPaths) -> Page:
    page = Page()
    page.feed(paths.html.read_text(encoding="utf-8"))
    return page


def test_page_stands_in_order(written: ReportPaths) -> None:
    assert [heading for heading in parsed(written).headings if heading] == [
        "UAR (%) by what the attacker knows",
        "UAR against the size of the attack",
        "Sanity checks",
        "Sounds and what they are taken for",
        "Every attack on every system",
        "Realisability gap: from log-Mel to sound and back",
        "Detection: does the defence notice the attack?",
        "Evaluation card",
        "What the words mean",
    ]


def test_detection_is_a_row_per_attack_and_score(written: ReportPaths) -> None:
    table = detection_table(make_result())
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["ssad", "pgd-15", "black box", "change of the input", "0.938", "62.5", "6"],
        ["ssad", "pgd-15", "adaptive", "change of the probabilities", "–", "–", "0"],
    ]
    assert "No attacker here tries to fool the detector" in table.note
    text = written.markdown.read_text(encoding="utf-8")
    assert text.index("Realisability gap") < text.index(table.note)
    assert not detection_table(make_result(detection=pd.DataFrame())).rows


def test_page_needs_nothing_from_outside(written: ReportPaths) -> None:
    page = parsed(written)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster"):
            assert str(attributes.get(name, "data:")).startswith("data:")
    text = written.html.read_text(encoding="utf-8")
    assert "<planted>" not in text
    assert "&lt;planted&gt;" in text
    assert not re.search(r"https?://|@import|url\(", re.sub(r"base64,[^\"]*", "", text))


def test_page_plays_each_clip_as_it_is(written: ReportPaths) -> None:
    sounds = [attributes for tag, attributes in parsed(written).tags if tag == "audio"]
    kinds = [str(sound["aria-label"]).split(" ")[0] for sound in sounds]
    assert kinds == ["clean", "attacked", "purified"]
    for kind, sound in zip(kinds, sounds, strict=True):
        assert "controls" in sound
        head, data = str(sound["src"]).split(",")
        assert head == "data:audio/wav;base64"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float64")
        assert rate == 16_000
        wanted = np.clip(make_clip(kind).waveform.astype(np.float64), -1, 1 - 2**-15)
        assert np.abs(samples - wanted).max() <= 0.5 / 32768


def test_markdown(written: ReportPaths) -> None:
    text = written.markdown.read_text(encoding="utf-8")
    assert "**An attacker who knows the defence leaves ssad" in text.split("\n## ")[0]
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"\|(-+:?\|)+", line):
            block = lines[number - 1 : number + 2]
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block}) == 1
    assert "- attacks · adaptive pgd: class PGD, steps 50, random start no" in text
    assert "u10, u11, … (20 in all)" in text
    order = [text.index(f"| {word} |") for word in ("error", "warning", "passed", "not measured")]
    assert order == sorted(order)
    assert "| u1 (true class a) | attacked | ssad | b |" in text
    for path in sorted((written.folder / "figures").iterdir()):
        assert f"(figures/{path.name})" in text


def refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_json_is_whole_and_has_no_nan(written: ReportPaths) -> None:
    told = json.loads(
        (written.folder / "audit.json").read_text(encoding="utf-8"), parse_constant=refuse
    )
    assert told["schema_version"] == 1
    assert told["passed"] is False
    assert (told["radius"], told["radius_db"], told["chance"]) == (0.02, 1.6, 0.5)
    assert told["verdict"][0].startswith("An attacker who knows the defence leaves ssad 12.5 %")
    systems = {system["name"]: system for system in told["systems"]}
    assert list(systems) == ["undefended", "ssad", "pgd-at"]
    for (name, knowledge), kept in WORST.items():
        assert systems[name]["by_knowledge"][knowledge]["uar"] == pytest.approx(kept)
    assert set(systems["undefended"]["by_knowledge"]) == {"adaptive"}
    assert {name: s["worst_case"]["uar"] for name, s in systems.items()} == pytest.approx(OF_ALL)
    pgd = [
        row
        for row in systems["ssad"]["attacks"]
        if (row["attack"], row["knowledge"], row["strength"]) == ("pgd", "adaptive", 0.02)
    ]
    assert [(row["uar"], row["median_snr_db"], row["lowest_snr_db"]) for row in pgd] == [
        (0.25, 30.25, None)
    ]
    assert [finding["severity"] for finding in told["findings"]] == [
        *("passed", "error", "warning", "not-measured")
    ]
    assert told["findings"][2]["evidence"] == {"share": None}
    assert told["realisability"][0]["median_log_mel_error_db"] is None
    assert [(row["score"], row["area"], row["utterances"]) for row in told["detection"]] == [
        ("residual", 0.9375, 6),
        ("l1", None, 0),
    ]
    assert told["card"]["utterances"] == [f"u{i}" for i in range(20)]
    assert told["clips"][0]["seconds"] == 400 / 16_000


def test_one_speaker_and_nothing_but_numbers(tmp_path: Path) -> None:
    result = make_result()
    alone = result.records.frame.assign(speaker="s")
    bare = make_result(
        records=type(result.records)(alone, {}),
        measures=pd.DataFrame(),
        realisability=None,
        detection=None,
        clips=(),
        findings=(),
        card={},
    )
    told = json.loads(
        (write_audit(bare, tmp_path).folder / "audit.json").read_text(), parse_constant=refuse
    )
    assert told["systems"][1]["worst_case"]["low"] is None
    assert told["radius_db"] is None
    assert told["detection"] is None
    assert math.isnan(bare.clean("ssad").low)


def said(result: AuditResult) -> str:
    return " ".join(verdict(result)).replace("\N{NO-BREAK SPACE}", " ")


def test_what_a_defence_does_to_speech_is_said_in_words() -> None:
    result = make_result(speech=SPEECH)
    # 1 / (1 + exp(-17.4906 * .75 + 9.6921)) = .9685
    told = said(result)
    assert "Of clean speech, ssad leaves its words as they are (STOI 0.75, with which" in told
    assert "listeners understand 96.9 % of words; of attacked speech STOI 0.63)" in told
    assert "and the sound is fair (PESQ 2.6)." in told
    table = speech_table(result)
    assert [row[0].text for row in table.rows] == list(SPEECH["defence"])
    assert document(result)["speech"][1]["stoi"] == 0.2


def test_who_loses_the_words_is_no_purifier() -> None:
    lost = SPEECH.assign(stoi=0.3)
    assert "ssad loses its words, so what the model answers is not about" in said(
        make_result(speech=lost)
    )


def test_measures_that_nobody_could_take_are_missed() -> None:
    told = said(make_result(speech=SPEECH.drop(columns=["stoi", "pesq"])))
    assert "is not known: STOI, PESQ or DNSMOS were not measured (pip install '.[qua" in told


@pytest.mark.parametrize(("moved", "suspected"), [(2.0, False), (6.0, True)])
def test_how_far_a_log_mel_is_moved_is_said_beside_another_clip(
    moved: float, suspected: bool
) -> None:
    rows = [("ssad", moved), ("another clip", 10.0)]
    frame = pd.DataFrame(
        [
            {"defence": d, "attack": "none", "knowledge": "none", "log_mel_distance_db": v}
            for d, v in rows
        ]
    )
    told = said(make_result(speech=frame))
    sentence = f"ssad moves a cell of a clean log-Mel by {moved} dB on average; another clip of the"
    assert sentence in told
    assert ("instead of the speech that went in" in told) is suspected
