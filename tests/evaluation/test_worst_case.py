from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from servax.errors import ServaxError
from servax.evaluation.records import KNOWLEDGE, worst_case

LABELS = np.array(["angry", "happy", "sad"])


@pytest.fixture
def frame() -> pd.DataFrame:
    """Return random outcomes of 20 utterances in all kinds of conditions."""
    rng = np.random.default_rng(0)
    utterances = pd.DataFrame(
        {
            "utterance": [f"u{i}" for i in range(20)],
            "speaker": "s",
            "gender": "female",
            "label": LABELS[rng.integers(0, 3, 20)],
            "fold": 1,
            "seed": 0,
            "target": "vgg16",
            "corpus": "made-up",
        }
    )
    parts = [utterances.assign(defence="ssad", attack="none", strength=0.0, knowledge="none")]
    for knowledge in ("adaptive", "black_box"):
        for defence in ("undefended", "ssad"):
            for strength in (0.01, 0.02):
                for attack in ("fgsm", "pgd", "square"):
                    parts.append(
                        utterances.assign(
                            defence=defence, attack=attack, strength=strength, knowledge=knowledge
                        )
                    )
    table = pd.concat(parts, ignore_index=True)
    right = rng.uniform(size=len(table)) < 0.7
    return table.assign(prediction=np.where(right, table["label"], "neutral"))


@pytest.mark.parametrize("knowledge", ["adaptive", "black_box", ("adaptive", "black_box")])
def test_worst_case_is_all_of_a_pivot_table(frame, knowledge) -> None:
    found = worst_case(frame, knowledge=knowledge)
    names = [knowledge] if isinstance(knowledge, str) else list(knowledge)
    part = frame[frame["knowledge"].isin(names)]
    cells = part.assign(right=part["label"] == part["prediction"]).pivot_table(
        index=["defence", "strength", "utterance"], columns=["knowledge", "attack"], values="right"
    )
    assert cells.shape[1] == 3 * len(names)
    safe = (cells == 1).all(axis=1)
    got = found.set_index(["defence", "strength", "utterance"])
    assert len(got) == len(safe)
    assert ((got["label"] == got["prediction"]).loc[safe.index] == safe).all()
    assert found["attack"].unique().tolist() == ["worst-case"]
    assert found["knowledge"].unique().tolist() == names[:1]


def test_the_prediction_is_that_of_the_first_attack_that_broke_it(frame) -> None:
    rows = frame[frame["utterance"] == "u3"].assign(label="sad", prediction="sad")
    rows.loc[rows["attack"] == "pgd", "prediction"] = "angry"
    rows.loc[rows["attack"] == "square", "prediction"] = "happy"
    assert worst_case(rows, knowledge="adaptive")["prediction"].unique().tolist() == ["angry"]


def test_other_knowledge_is_refused(frame) -> None:
    assert "transfer" in KNOWLEDGE
    with pytest.raises(ServaxError, match="no attack with knowledge 'transfer'; expected one of"):
        worst_case(frame, knowledge="transfer")
