"""Settings that were renamed: former names are taken for one version, with a warning."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from servax import attacks
from servax.experiments.reading import build
from servax.kinds import stored
from servax.perturbation import Linf
from servax.purifier import SSA, PurifierTraining
from servax.purifier.surrogates import DecisionSSA

FORMER = {
    "radius": {
        "epsilon": [
            attacks.PGD,
            attacks.MomentumPGD,
            attacks.DiversePGD,
            attacks.APGD,
            attacks.TargetedAPGD,
            attacks.Square,
            attacks.NES,
            attacks.SPSA,
            attacks.RandomNoise,
            attacks.AutoAttack,
        ]
    },
    "leave": {
        "early_stop": [
            attacks.PGD,
            attacks.MomentumPGD,
            attacks.DiversePGD,
            attacks.APGD,
            attacks.TargetedAPGD,
        ]
    },
    "budget": {"epsilon": [SSA, DecisionSSA]},
}
CASES = [
    pytest.param(kind, old, new, id=f"{kind.__name__}.{old}")
    for old, news in FORMER.items()
    for new, kinds in news.items()
    for kind in kinds
]


@pytest.mark.parametrize(("kind", "old", "new"), CASES)
def test_a_former_name_is_taken_with_a_warning(kind, old, new):
    value, other = (True, False) if old == "leave" else (0.5, 0.25)
    sentence = f"^{old} is called {new} since servax 0.2; the former name goes with servax 0.3.$"
    with pytest.warns(DeprecationWarning, match=sentence):
        made = kind(**{old: value})
    assert getattr(made, new) == value
    with pytest.warns(DeprecationWarning, match=sentence) as caught:
        assert getattr(made, old) == value
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=sentence):
        changed = replace(kind(**{new: value}), **{old: other})
    assert getattr(changed, new) == other


def test_settings_keep_their_names_in_files_and_hashes():
    training = PurifierTraining(ssa=SSA(epsilon=0.03))
    told = stored(training)
    assert told["ssa"] == {"step": 0.01, "budget": 0.03, "steps": 10, "start": "step"}
    assert build(PurifierTraining, json.loads(json.dumps(told))) == training
    assert build(PurifierTraining, {"ssa": {"epsilon": 0.03}}) == training
    assert stored(Linf(0.1)) == {"radius": 0.1}
