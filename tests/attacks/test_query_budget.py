"""What scores-only attacks ask: the budget, the counts, and models they refuse."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from servax.attacks import NES, PGD, SPSA, Counting, Square
from servax.errors import ServaxError, SettingError
from servax.perturbation import L2

RADIUS = 1e-4
ATTACKS = {
    "Square": Square(epsilon=RADIUS),
    "Square L2": Square(epsilon=RADIUS, norm=L2),
    "NES": NES(epsilon=RADIUS, samples=7),
    "SPSA": SPSA(epsilon=RADIUS, samples=7, norm=L2),
}
attacks = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def with_settings(attack, **settings):
    kept = dict(vars(attack))
    return type(attack)(**{**kept, **settings})


def correct(model, inputs):
    x, _ = inputs()
    return x, model(x).argmax(dim=1)


@attacks
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 15, 16, 17, 60])
def test_no_utterance_costs_more_than_the_budget(build, inputs, attack, queries):
    model = Counting(build("conv"))
    x, y = correct(model.model, inputs)
    attack = with_settings(attack, queries=queries)
    found = attack.counted(model, x, y, generator=seeded())
    assert int(found.queries.max()) <= queries
    assert int(found.queries.sum()) == model.forward_rows
    model.reset()
    assert model.forward_rows == 0
    # One utterance by itself: what the model saw is what the utterance cost.
    attack(model, x[:1], y[:1], generator=seeded())
    assert model.forward_rows <= queries
    # NES and SPSA step in pairs and one question, so at most two are left over.
    assert model.forward_rows >= queries - 2
    assert model.backward_rows == 0


@attacks
def test_counted_returns_what_a_call_returns(build, inputs, attack):
    model = build("conv")
    x, y = inputs()
    attack = with_settings(attack, queries=60, epsilon=0.3)
    found = attack.counted(model, x, y, generator=seeded())
    assert torch.equal(found.inputs, attack(model, x, y, generator=seeded()))
    said = model(found.inputs).argmax(dim=1)
    assert torch.equal(found.fooled, said != y)
    assert torch.equal(found.queries == 1, model(x).argmax(dim=1) != y)
    assert bool((found.queries[~found.fooled] >= 58).all())
    assert torch.equal(found.inputs[found.queries == 1], x[found.queries == 1])


@attacks
def test_more_queries_find_higher_losses(build, inputs, attack):
    model = build("conv")
    x, y = correct(model, inputs)

    def margins(queries):
        found = with_settings(attack, queries=queries, epsilon=0.02, loss="margin")(
            model, x, y, generator=seeded()
        )
        logits = model(found)
        others = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        return (others - logits[torch.arange(len(y)), y]).clamp(max=0.0).mean()

    assert margins(200) > margins(20)
    assert margins(20) > margins(1)


@attacks
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_are_refused(build, inputs, attack, broken):
    model = nn.Sequential(build("conv"), Broken(broken))
    sentence = "the model's scores are NaN or infinite: check the model's weights"
    with pytest.raises(ServaxError, match=f"^{re.escape(sentence)}"):
        attack(model, *inputs(), generator=seeded())


class Broken(nn.Module):
    """Spoils one logit."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits[:, :-1], torch.full_like(logits[:, -1:], self.value)], dim=1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Square(queries=0), "queries is 0, expected a whole number of at least 1."),
        (lambda: NES(queries=2.5), "queries is 2.5, expected a whole number of at least 1."),
        (lambda: Square(share=0.0), "share is 0.0, expected a number above 0 and at most 1."),
        (lambda: Square(share=1.1), "share is 1.1, expected a number above 0 and at most 1."),
        (lambda: Square(epsilon=-1.0), "epsilon is -1.0, expected a finite number of at least 0."),
        (
            lambda: Square(loss="marginn"),
            "loss is 'marginn', expected one of cross-entropy, dlr, margin. Did you mean 'margin'?",
        ),
        (
            lambda: SPSA(norm="L2"),
            "norm is 'L2', expected servax.perturbation.Linf, L2 or SignalToNoise (the class).",
        ),
        (lambda: NES(samples=0), "samples is 0, expected a whole number of at least 1."),
        (lambda: NES(sigma=0.0), "sigma is 0.0, expected a finite number above 0."),
        (lambda: SPSA(step=torch.inf), "step is inf, expected a finite number above 0."),
    ],
)
def test_settings_outside_their_rule_are_refused(make, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        make()


def test_a_counting_model_counts_rows_forward_and_backward(build, inputs):
    model = Counting(build("conv"))
    x, y = inputs()
    PGD(steps=3)(model, x, y)
    assert (model.forward_rows, model.backward_rows) == (24, 24)
    with torch.no_grad():
        assert torch.equal(model(x[:5]), model.model(x[:5]))
    assert (model.forward_rows, model.backward_rows) == (29, 24)
