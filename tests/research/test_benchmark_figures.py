from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from benchmark import figures_of
from bootstrap_by_hand import speaker_interval
from entries import Figure
from sklearn.metrics import balanced_accuracy_score

from servax.errors import ServaxError
from servax.evaluation.metrics import protection_efficacy, recovery_rate

CLASSES = np.array(["angry", "happy", "sad"])
MEASUREMENT = {
    "target": "toy",
    "groups": "tuning",
    "command": "c",
    "commit": "0123abc",
    "date": "2024-01-01",
}
ADAPTIVE = "pgd-restarts-9x2"
CONDITIONS = [("none", 0.0, "none")]
CONDITIONS += [("fgsm", e, "oblivious") for e in (0.003, 0.009)]
CONDITIONS += [("pgd", float(k), "oblivious") for k in range(1, 7)]


def make_records(seeds: int = 2) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    parts = []
    for seed in range(seeds):
        for fold in (1, 2):
            utterances = [f"u{fold}-{i}" for i in range(60)]
            labels = CLASSES[np.arange(60) % 3]
            base = {"utterance": utterances, "speaker": [f"s{fold}{i // 15}" for i in range(60)]}
            base |= {"fold": fold, "seed": seed, "label": labels, "target": "toy"}
            for defence, share in (("undefended", 0.4), ("mine", 0.7)):
                conditions = list(CONDITIONS)
                if defence == "mine":
                    conditions += [(ADAPTIVE, r, "adaptive") for r in (0.005, 0.02)]
                for attack, strength, knowledge in conditions:
                    right = draws.uniform(size=60) < (0.8 if attack == "none" else share)
                    wrong = draws.choice(CLASSES, 60)
                    rows = pd.DataFrame(base).assign(
                        prediction=np.where(right, labels, wrong),
                        defence=defence,
                        attack=attack,
                        strength=strength,
                        knowledge=knowledge,
                        gender="female",
                        corpus="made",
                    )
                    # The adaptive attacker takes some of the utterances only.
                    parts.append(rows.iloc[::4] if knowledge == "adaptive" else rows)
    return pd.concat(parts, ignore_index=True)


RECORDS = make_records()


def cell(defence: str, attack: str, strength: float) -> pd.DataFrame:
    rows = RECORDS[(RECORDS["defence"] == defence) & (RECORDS["attack"] == attack)]
    chosen = rows[np.isclose(rows["strength"], strength)]
    return chosen.sort_values(["fold", "seed", "utterance"]).reset_index(drop=True)


def predictions(defence: str, attack: str, strength: float) -> np.ndarray:
    return np.array(cell(defence, attack, strength)["prediction"].tolist())


def percent(rows: pd.DataFrame) -> float:
    return 100 * float(balanced_accuracy_score(rows["label"], rows["prediction"]))


def test_figures_agree_with_other_implementations() -> None:
    found = figures_of(RECORDS, "mine", **MEASUREMENT)
    expected = {
        "undefended": percent(cell("undefended", "none", 0)),
        "clean": percent(cell("mine", "none", 0)),
        "fgsm": np.mean([percent(cell("mine", "fgsm", e)) for e in (0.003, 0.009)]),
        "pgd": np.mean([percent(cell("mine", "pgd", k)) for k in (3, 6)]),  # Table 1's k only
    }
    for name, value in expected.items():
        figure = getattr(found, name)
        assert figure.value == pytest.approx(value, abs=0.006), name
        assert figure.low < figure.value < figure.high, name
    assert (found.heard, found.seeds, found.utterances) == ((1, 2), (0, 1), 120)
    told = [(a.radius, a.steps, a.restarts, a.utterances) for a in found.adaptive]
    assert told == [(0.005, 9, 2, 30), (0.02, 9, 2, 30)]
    strong = cell("mine", ADAPTIVE, 0.02)
    assert found.adaptive[1].uar == pytest.approx(percent(strong), abs=0.006)


def test_protection_is_a_mean_over_every_k_with_an_interval_over_speakers() -> None:
    clean = cell("undefended", "none", 0)
    labels, before = (np.array(clean[name].tolist()) for name in ("label", "prediction"))
    attacked = [predictions("undefended", "pgd", k) for k in range(1, 7)]
    protected = [predictions("mine", "pgd", k) for k in range(1, 7)]

    def efficacy(rows: np.ndarray) -> float:
        each = [
            protection_efficacy(labels[rows], before[rows], a[rows], p[rows])
            for a, p in zip(attacked, protected, strict=True)
        ]
        return float(np.mean(each))

    def recovery(rows: np.ndarray) -> float:
        return float(
            np.mean([recovery_rate(labels[rows], before[rows], p[rows]) for p in protected])
        )

    found = figures_of(RECORDS, "mine", **MEASUREMENT)
    for figure, statistic in ((found.pe, efficacy), (found.rr, recovery)):
        interval = speaker_interval(
            statistic, clean["speaker"].tolist(), generator=np.random.default_rng(0)
        )
        assert isinstance(figure, Figure)
        told = (figure.value, figure.low, figure.high)
        wanted = (statistic(np.arange(len(labels))), interval.low, interval.high)
        assert told == pytest.approx(wanted, abs=0.0006)


def test_the_bare_recogniser_has_no_protection() -> None:
    rows = RECORDS[(RECORDS["defence"] == "undefended") & (RECORDS["seed"] == 0)]
    known = rows[rows["attack"] == "pgd"].assign(
        attack=ADAPTIVE, strength=0.02, knowledge="adaptive"
    )
    rows = pd.concat([rows, known.drop_duplicates(["utterance"])], ignore_index=True)
    found = figures_of(rows, "undefended", **MEASUREMENT)
    assert found.pe is None
    assert found.rr is None
    assert found.clean == found.undefended


def test_a_single_speaker_has_no_interval() -> None:
    found = figures_of(RECORDS.assign(speaker="s"), "mine", **MEASUREMENT)
    assert found.clean is not None
    assert found.clean.low is None
    assert found.pe is not None
    assert found.pe.high is None


def test_an_unknown_defence_is_refused() -> None:
    with pytest.raises(ServaxError, match="hold no 'other', only mine, undefended"):
        figures_of(RECORDS, "other", **MEASUREMENT)
