"""Each check of records sees a table that is wrong on purpose, and one that is as it should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from servax.errors import ServaxError
from servax.evaluation.checks import Finding, of_records
from servax.evaluation.checks.of_records import one_utterance, pair
from servax.evaluation.records import validate

COUNT = 40
Condition = tuple[str, float, str]
"""Attack, strength, knowledge."""
CLEAN: Condition = ("none", 0.0, "none")


def rows(condition: Condition, broken: range | int, defence: str = "ssad") -> pd.DataFrame:
    """Return 40 utterances of two classes; those in `broken` (the first so many) are wrong."""
    attack, strength, knowledge = condition
    wrong = np.isin(np.arange(COUNT), range(broken) if isinstance(broken, int) else broken)
    label = np.where(np.arange(COUNT) % 2, "sad", "angry")
    return pd.DataFrame(
        {
            "utterance": [f"u{i:02d}" for i in range(COUNT)],
            "speaker": "s0",
            "fold": 1,
            "seed": 0,
            "label": label,
            "prediction": np.where(wrong, "happy", label),
            "target": "vgg16",
            "defence": defence,
            "attack": attack,
            "strength": strength,
            "knowledge": knowledge,
            "gender": "female",
            "corpus": "made-up",
        }
    )


def table(
    broken: Mapping[Condition, range | int],
    undefended: Mapping[Condition, range | int] | None = None,
) -> pd.DataFrame:
    parts = [rows(condition, which) for condition, which in broken.items()]
    parts += [rows(c, which, "undefended") for c, which in (undefended or {}).items()]
    return pd.concat(parts, ignore_index=True)


def drawn(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records of a system that draws: gradients are means over 16 draws, or over 8."""
    typed = validate(frame)
    draws = np.where(typed["attack"] == "pgd-half-draws", 8, 16)
    return typed.assign(draws=np.where(typed["knowledge"] == "adaptive", draws, 1))


def white(attack: str, strength: float = 0.02) -> Condition:
    return (attack, strength, "adaptive")


def blind(attack: str, strength: float = 0.02, knowledge: str = "oblivious") -> Condition:
    return (attack, strength, knowledge)


NOISE = blind("noise", knowledge="black_box")
SQUARE = blind("square", knowledge="black_box")
Check = Callable[..., tuple[Finding, ...]]

TABLE: dict[str, tuple[Check, pd.DataFrame, str]] = {
    # random systems: 4 fall to Square alone and 8 to PGD alone, or 20 to Square alone
    "by chance": (
        of_records.white_box_at_least_black_box,
        drawn(table({white("pgd"): 10, SQUARE: range(2, 14)})),
        "passed",
    ),
    "by no chance": (
        of_records.white_box_at_least_black_box,
        drawn(table({white("pgd"): 10, SQUARE: range(2, 30)})),
        "error",
    ),
    # 8 and 3 that one condition alone breaks: 5 apart, within two standard errors, 2 sqrt(11) = 6.6
    "draws by chance": (
        of_records.pgd_at_least_fgsm,
        drawn(table({white("fgsm"): range(10), white("pgd"): range(8, 13)})),
        "passed",
    ),
    "draws weaker": (
        of_records.pgd_at_least_fgsm,
        drawn(table({white("fgsm"): 20, white("pgd"): 5})),
        "error",
    ),
    "draws, enough": (
        of_records.twice_the_draws,
        drawn(table({white("pgd-half-draws"): 20, white("pgd"): 22})),
        "passed",
    ),
    "draws, too few": (
        of_records.twice_the_draws,
        drawn(table({white("pgd-half-draws"): 10, white("pgd"): 25})),
        "warning",
    ),
    "no draws": (of_records.twice_the_draws, table({white("pgd"): 25}), "not-measured"),
    # PGD and FGSM
    "pgd": (of_records.pgd_at_least_fgsm, table({white("fgsm"): 10, white("pgd"): 20}), "passed"),
    "pgd, one less": (
        of_records.pgd_at_least_fgsm,
        table({white("fgsm"): 10, white("pgd"): 9}),
        "passed",
    ),
    "pgd, weaker": (
        of_records.pgd_at_least_fgsm,
        table({white("fgsm"): 10, white("pgd"): 5}),
        "error",
    ),
    "pgd, weaker, oblivious": (
        of_records.pgd_at_least_fgsm,
        table({blind("fgsm"): 10, blind("pgd"): 5}),
        "warning",
    ),
    "pgd, other strength": (
        of_records.pgd_at_least_fgsm,
        table({white("fgsm"): 10, white("pgd", 15): 5}),
        "not-measured",
    ),
    # strength
    "falls": (
        of_records.uar_falls_with_strength,
        table({CLEAN: 2, white("pgd", 0.01): 10, white("pgd", 0.02): 9, white("pgd", 0.03): 30}),
        "passed",
    ),
    "rises": (
        of_records.uar_falls_with_strength,
        table({CLEAN: 2, white("pgd", 0.01): 20, white("pgd", 0.02): 10}),
        "error",
    ),
    "rises above clean": (
        of_records.uar_falls_with_strength,
        table({CLEAN: 12, white("pgd", 0.01): 2}),
        "error",
    ),
    "rises, oblivious": (
        of_records.uar_falls_with_strength,
        table({blind("pgd", 0.01): 20, blind("pgd", 0.02): 10}),
        "warning",
    ),
    "one strength": (of_records.uar_falls_with_strength, table({white("pgd"): 2}), "not-measured"),
    # white box and black box
    "masked": (
        of_records.white_box_at_least_black_box,
        table({white("pgd"): 10, SQUARE: range(5, 15)}),
        "error",
    ),
    "masked by transfer": (
        of_records.white_box_at_least_black_box,
        table({white("pgd"): 10, blind("pgd", knowledge="transfer"): range(8, 12)}),
        "error",
    ),
    "not masked": (
        of_records.white_box_at_least_black_box,
        table({white("pgd"): 10, white("apgd-ce"): range(10, 20), SQUARE: range(5, 15)}),
        "passed",
    ),
    "no black box": (
        of_records.white_box_at_least_black_box,
        table({white("pgd"): 1}),
        "not-measured",
    ),
    "smaller black box": (
        of_records.white_box_at_least_black_box,
        table({white("pgd"): 1, blind("square", 0.01): 9}),
        "not-measured",
    ),
    # noise
    "noise": (of_records.noise_weaker, table({white("pgd"): 20, NOISE: 3}), "passed"),
    "noise, all broken": (of_records.noise_weaker, table({white("pgd"): 40, NOISE: 40}), "passed"),
    "noise, equal": (of_records.noise_weaker, table({white("pgd"): 3, NOISE: 3}), "warning"),
    "noise, stronger": (of_records.noise_weaker, table({white("pgd"): 3, NOISE: 20}), "error"),
    "no noise": (of_records.noise_weaker, table({white("pgd"): 3}), "not-measured"),
    # convergence
    "flat": (of_records.twice_the_steps, table({white("pgd"): 20, white("pgd-2x"): 21}), "passed"),
    "not flat": (
        of_records.twice_the_steps,
        table({white("pgd"): 20, white("pgd-2x"): 24}),
        "warning",
    ),
    "not doubled": (of_records.twice_the_steps, table({white("pgd"): 20}), "not-measured"),
    # the undefended twin
    "twin": (
        of_records.attack_breaks_undefended,
        table({white("pgd"): 5}, {blind("pgd"): 20}),
        "passed",
    ),
    "twin, weak attack": (
        of_records.attack_breaks_undefended,
        table({white("pgd"): 5}, {white("pgd"): 15}),
        "error",
    ),
    "twin, one weak attack": (
        of_records.attack_breaks_undefended,
        table({white("pgd"): 5, white("corner"): 5}, {white("pgd"): 20, white("corner"): 3}),
        "warning",
    ),
    "twin, small strength": (
        of_records.attack_breaks_undefended,
        table({white("pgd", 0.01): 2, white("pgd"): 5}, {white("pgd", 0.01): 3, white("pgd"): 40}),
        "passed",
    ),
    "no twin": (of_records.attack_breaks_undefended, table({white("pgd"): 5}), "not-measured"),
    # the worst case
    "worst": (
        of_records.worst_case_below_minimum,
        table({white("pgd"): 10, white("fab"): range(5, 15)}),
        "note",
    ),
    "worst is one": (
        of_records.worst_case_below_minimum,
        table({white("pgd"): 10, white("fab"): range(5, 10)}),
        "passed",
    ),
    "worst of one": (of_records.worst_case_below_minimum, table({white("pgd"): 1}), "not-measured"),
    # knowledge
    "known": (of_records.knowledge_complete, table({blind("pgd"): 1, white("pgd"): 5}), "passed"),
    "unknown": (of_records.knowledge_complete, table({blind("pgd"): 1, SQUARE: 2}), "error"),
    "known by BPDA": (
        of_records.knowledge_complete,
        table({blind("pgd"): 1, blind("pgd", knowledge="bpda"): 5}),
        "passed",
    ),
    "random": (
        lambda frame: of_records.knowledge_complete(frame, eot_draws={"ssad": 1}),
        table({white("pgd"): 5}),
        "error",
    ),
    "random, EOT": (
        lambda frame: of_records.knowledge_complete(frame, eot_draws={"ssad": 16}),
        table({white("pgd"): 5}),
        "passed",
    ),
    "clean only": (of_records.knowledge_complete, table({CLEAN: 5}), "not-measured"),
}


@pytest.mark.parametrize("case", TABLE)
def test_check(case) -> None:
    check, frame, expected = TABLE[case]
    findings = {finding.subject: finding for finding in check(frame)}
    finding = findings["ssad"]
    assert finding.severity == expected, finding.statement
    assert finding.statement.endswith(".")
    json.dumps(finding.to_json(), allow_nan=False)
    other = [finding.severity for name, finding in findings.items() if name == "undefended"]
    assert all(severity in ("passed", "not-measured") for severity in other)


def test_one_utterance_in_many_is_a_warning() -> None:
    many = [
        table({white("pgd"): 10, SQUARE: 11 if part == 0 else 10}).assign(fold=part)
        for part in range(2)
    ]
    (finding,) = of_records.white_box_at_least_black_box(pd.concat(many, ignore_index=True))
    assert finding.severity == "warning"
    assert finding.evidence["strengths"][0]["missed"] == ["u10"]
    assert "1 of 80 utterances (1.2 %)" in finding.statement


@pytest.mark.parametrize(
    ("bare", "expected"),
    [(blind("pgd"), "passed"), (SQUARE, "error"), (blind("pgd", knowledge="transfer"), "error")],
)
def test_who_knows_all_of_the_bare_target_is_oblivious_of_defences(bare, expected) -> None:
    findings = of_records.knowledge_complete(table({white("pgd"): 1}, {bare: 5}))
    assert [finding.severity for finding in findings] == ["passed", expected]


def scored(predictions: str, labels: str, *, speakers: int = 10) -> Finding:
    """Return what is said of a clean score; letters are classes, utterances take turns."""
    frame = pd.concat([rows(CLEAN, 0)] * 5, ignore_index=True).iloc[: len(labels)]
    frame = frame.assign(
        label=list(labels),
        prediction=list(predictions),
        utterance=[f"u{i}" for i in range(len(labels))],
        speaker=[f"s{i % speakers}" for i in range(len(labels))],
    )
    (finding,) = of_records.clean_score(frame)
    return finding


FOUR = "abcd" * 25


@pytest.mark.parametrize("speakers", [10, 2])
def test_a_clean_score_at_chance_is_a_warning(speakers) -> None:
    drawn = "".join(np.random.default_rng(0).choice(list("abcd"), 100))
    for predictions, said in (
        (drawn, "not shown to be above chance"),
        ("a" * 100, "not shown to be above chance"),
        ("bcda" * 25, "in another order it would be 100.0 %"),
        ("bacd" * 25, "in another order it would be 100.0 %"),  # two names swapped: 50 %
    ):
        finding = scored(predictions, FOUR, speakers=speakers)
        assert finding.severity == "warning"
        assert said in finding.statement
        assert finding.evidence["chance"] == 0.25
        assert finding.evidence["resampled"] == ("speaker" if speakers == 10 else "utterance")
        assert finding.evidence["uar"] == balanced_accuracy_score(list(FOUR), list(predictions))


@pytest.mark.parametrize("right", [50, 70, 100])
def test_a_clean_score_above_chance_passes(right) -> None:
    draws = np.random.default_rng(1)
    wrong = draws.choice(list("abcde"), 100)  # the model has a class that the corpus lacks
    predictions = np.where(draws.permutation(100) < right, list(FOUR), wrong)
    finding = scored("".join(predictions), FOUR)
    assert finding.severity == "passed", finding.statement
    assert finding.evidence["low"] <= finding.evidence["uar"] <= finding.evidence["high"]


def test_a_clean_score_needs_clean_rows_and_takes_a_single_one() -> None:
    (finding,) = of_records.clean_score(table({white("pgd"): 1}))
    assert finding.severity == "not-measured"
    assert scored("a", "a").severity == "warning"  # one class: chance is all that there is


def test_systems_with_several_targets_are_told_apart() -> None:
    frame = table({blind("pgd"): 5})
    both = pd.concat([frame, frame.assign(target="crnn")], ignore_index=True)
    assert [f.subject for f in of_records.knowledge_complete(both)] == [
        "ssad (crnn)",
        "ssad (vgg16)",
    ]


def test_conditions_are_compared_on_the_utterances_of_both() -> None:
    long, short = rows(white("pgd"), 10), rows(white("fgsm"), range(4, 12)).iloc[:15]
    long, short = (
        each.set_index(["utterance", "fold", "seed"]).assign(random=False) for each in (long, short)
    )
    found = pair(long, short)
    assert found is not None
    labels = short["label"]
    wrong = np.where(labels == "sad", "angry", "sad")
    truth = np.where(np.arange(15) < 10, wrong, labels)
    first = balanced_accuracy_score(labels, truth)
    assert found[0] == pytest.approx(first)
    assert one_utterance(short) == pytest.approx(1 / (2 * 7))


def test_worst_case_and_minimum_are_both_given() -> None:
    (finding,) = of_records.worst_case_below_minimum(
        table({white("pgd"): 10, white("fab"): range(5, 15)})
    )
    (condition,) = finding.evidence["conditions"]
    # 10 and 10 of 40 are broken by one attack each, 15 by either: 8 of one class, 7 of the other.
    assert condition["uar_minimum"] == pytest.approx(1 - 10 / 40)
    assert condition["uar_worst_case"] == pytest.approx(1 - 15 / 40)


def test_no_table_of_records_is_refused() -> None:
    with pytest.raises(ServaxError, match="records lack the column 'knowledge'"):
        of_records.noise_weaker(rows(CLEAN, 1).drop(columns="knowledge"))
