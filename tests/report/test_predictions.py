from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from servax.errors import ServaxError
from servax.report import CLEAN, Condition, collect

ADAPTIVE = Condition("pgd", 30.0, "adaptive")


def test_lines_up_predictions_whatever_the_order_of_rows(small: pd.DataFrame) -> None:
    shuffled = small.sample(frac=1, random_state=0)
    outcomes = collect(shuffled)
    straight = collect(small)
    assert outcomes.defences[:2] == ("ssad", "ssad-residual")
    assert outcomes.defences[-1] == "undefended"
    assert outcomes.classes == ("angry", "happy", "neutral", "sad")
    for cell, predictions in straight.cells.items():
        np.testing.assert_array_equal(outcomes.cells[cell], predictions)
    row = small[(small["defence"] == "ssad") & (small["attack"] == "none")].iloc[5]
    names = sorted(zip(small["fold"], small["utterance"], strict=True))
    position = list(dict.fromkeys(names)).index((row["fold"], row["utterance"]))
    found = outcomes.classes[outcomes.cells["ssad", CLEAN][position]]
    assert found == row["prediction"]
    assert outcomes.speakers[position] == row["speaker"]


def test_class_order_follows_the_provenance_when_it_covers_all(small: pd.DataFrame) -> None:
    order = ["sad", "neutral", "happy", "angry", "calm"]
    assert collect(small, {"classes": order}).classes == tuple(order)
    assert collect(small, {"classes": ["sad"]}).classes == ("angry", "happy", "neutral", "sad")


def test_adaptive_is_the_strictest_white_box(small: pd.DataFrame) -> None:
    exact = small[(small["defence"] == "ssad") & (small["knowledge"] == "adaptive")]
    stricter = exact.assign(knowledge="bpda", prediction="nobody")
    outcomes = collect(pd.concat([small, stricter]))
    assert outcomes.adaptive("ssad") == Condition("pgd", 30.0, "bpda")
    assert outcomes.adaptive("mean-filter") == ADAPTIVE
    assert outcomes.adaptive_steps == 30


def test_undefended_needs_no_adaptive_rows(small: pd.DataFrame) -> None:
    bare = (small["defence"] == "undefended") & (small["knowledge"] == "adaptive")
    outcomes = collect(small[~bare])
    assert outcomes.adaptive("undefended") == Condition("pgd", 30.0, "oblivious")


def test_refuses_oblivious_figures_alone(small: pd.DataFrame) -> None:
    one = (small["defence"] == "ssad") & (small["knowledge"] == "adaptive")
    sentence = (
        r"^ssad has oblivious results and no adaptive ones beside them; run the adaptive PGD of 30 "
        r"steps on it too, oblivious figures are never printed alone\.$"
    )
    with pytest.raises(ServaxError, match=sentence):
        collect(small[~one])
    sentence = (
        r"^ssad has oblivious results and no adaptive ones beside them; run the adaptive "
        r"PGD on it too, oblivious figures are never printed alone\.$"
    )
    with pytest.raises(ServaxError, match=sentence):
        collect(small[small["knowledge"] != "adaptive"])


def test_a_weaker_adaptive_attack_does_not_count(small: pd.DataFrame) -> None:
    one = (small["defence"] == "ssad") & (small["knowledge"] == "adaptive")
    weaker = small[one].assign(strength=5.0)
    with pytest.raises(ServaxError, match=r"^ssad has oblivious results and no adaptive ones"):
        collect(pd.concat([small[~one], weaker]))


def test_refuses_a_cell_that_covers_less(small: pd.DataFrame) -> None:
    one = (small["defence"] == "ssad") & (small["attack"] == "fgsm") & (small["strength"] == 0.006)
    sentence = (
        r"^ssad under fgsm of strength 0\.006 \(oblivious\) covers 47 of 48 utterances; only cells "
        r"over the same utterances can be compared, run the missing ones\.$"
    )
    with pytest.raises(ServaxError, match=sentence):
        collect(small.drop(small[one].index[:1]))


def test_refuses_tables_that_cannot_be_compared(small: pd.DataFrame) -> None:
    other = small.assign(target="resnet")
    sentence = (
        r"^records hold 2 values of target \(resnet, vgg16\); a report tells of one, "
        r"select it first\.$"
    )
    with pytest.raises(ServaxError, match=sentence):
        collect(pd.concat([small, other]))
    dirty = small[~((small["defence"] == "undefended") & (small["attack"] == "none"))]
    sentence = (
        r"^records have no clean predictions of the undefended target; expected rows with defence "
        r"'undefended' and attack 'none'\.$"
    )
    with pytest.raises(ServaxError, match=sentence):
        collect(dirty)
    torn = small.copy()
    torn.loc[torn["defence"] == "ssad", "label"] = "sad"
    sentence = r"^records give utterance 'u0-\d{3}' two labels or speakers, expected one\.$"
    with pytest.raises(ServaxError, match=sentence):
        collect(torn)


def test_genders_and_runs_stand_beside_the_rows(small: pd.DataFrame) -> None:
    men = small.assign(gender=small["speaker"].map(lambda s: "male" if s == "s00" else ""))
    outcomes = collect(pd.concat([men, men[men["fold"] == 1].assign(seed=3)]))
    expected = np.where(outcomes.speakers == "s00", "male", "unknown")
    np.testing.assert_array_equal(outcomes.genders, expected)
    assert outcomes.runs == ((0, 0), (1, 0), (1, 3))
    assert set(outcomes.folds.tolist()) == {0, 1, 2}
    assert all(name.startswith("s1") for name in outcomes.speakers[outcomes.folds == 2])
