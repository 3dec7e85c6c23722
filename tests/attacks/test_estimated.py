"""NES and SPSA: the estimate against its known mean and variance, the steps in closed form."""

from __future__ import annotations

import pytest
import torch

from servax.attacks import NES, SPSA, Problem
from servax.attacks.score_based import Search
from servax.perturbation import L2, Linf, SignalToNoise

KINDS = pytest.mark.parametrize("kind", [NES, SPSA])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uphill(model, y):
    """Return the gradient (B, 1, 6, 8) of a linear model's margin."""
    weights = model.layer.weight.detach()
    return (weights[1 - y] - weights[y]).reshape(-1, 1, 6, 8)


def estimate(attack, model, x, y, pairs, mask=None):
    search = Search(Problem(model=model, x=x, y=y, mask=mask), "margin")
    return attack.gradient(search, x, pairs, seeded())


@KINDS
@pytest.mark.parametrize("sigma", [1e-3, 0.5])
def test_the_estimate_is_unbiased_and_varies_as_it_should(build, inputs, kind, sigma):
    """With u of mean 0, variance 1 and fourth moment m, (u.g) u has mean g and a known variance.

    Of element i it is |g|^2 + (m - 2) g_i^2, with m = 3 for normal and 1 for random signs.
    """
    model = build("linear")
    x, y = inputs()
    true, pairs = uphill(model, y), 1500
    found = estimate(kind(sigma=sigma), model, x, y, pairs)
    fourth = 3.0 if kind is NES else 1.0
    squared = true.flatten(1).pow(2).sum(dim=1).view(-1, 1, 1, 1)
    deviation = ((squared + (fourth - 2.0) * true**2) / pairs).sqrt()
    score = (found - true) / deviation
    # 384 scores, those of one utterance nearly independent: standard normal.
    assert float(score.abs().max()) < 4.5
    assert abs(float(score.mean())) < 0.2
    assert 0.85 < float(score.std()) < 1.15


@KINDS
def test_under_a_ratio_questions_are_as_near_as_the_ball_is_small(build, inputs, kind):
    """They lie at a share of each utterance's own radius, a hundredth of its norm at 40 dB."""
    x, y = inputs()
    x[0] *= 0.01
    asked = []

    class Heard(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = build("linear")

        def forward(self, z):
            asked.append(z)
            return self.model(z)

    search = Search(Problem(model=Heard(), x=x, y=y), "margin")
    attack = kind(epsilon=40.0, norm=SignalToNoise, sigma=0.1)
    assert bool(attack.gradient(search, x, 200, seeded()).isfinite().all())
    change = torch.cat(asked).view(-1, *x.shape) - x
    share = change.flatten(2).norm(dim=2).square().mean(0).sqrt() / x.flatten(1).norm(dim=1)
    assert torch.allclose(share, torch.full_like(share, 0.001), rtol=0.05)


@KINDS
def test_silence_has_no_slope_under_a_ratio(build, inputs, kind):
    x, y = inputs()
    search = Search(Problem(model=build("linear"), x=torch.zeros_like(x), y=y), "margin")
    attack = kind(epsilon=40.0, norm=SignalToNoise)
    assert not bool(attack.gradient(search, torch.zeros_like(x), 5, seeded()).any())


@KINDS
def test_more_samples_point_more_nearly_uphill(build, inputs, kind):
    model = build("linear")
    x, y = inputs()
    true = uphill(model, y).flatten(1)
    near = [
        torch.cosine_similarity(estimate(kind(), model, x, y, pairs).flatten(1), true).mean()
        for pairs in (1, 10, 100, 1000)
    ]
    assert near == sorted(near)
    assert near[-1] > 0.97


@KINDS
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_linear_model_is_attacked_as_in_closed_form(build, inputs, kind, norm):
    model = build("linear")
    x, _ = inputs()
    y = model(x).argmax(dim=1)
    true = uphill(model, y)
    wide = (-9.0, 9.0)
    if norm == "Linf":
        # One step, so small that nobody is fooled.
        attack = kind(epsilon=1e-6, step=1e-6, samples=1500, queries=3002, bounds=wide)
        found = (attack(model, x, y, generator=seeded()) - x) / 1e-6
        # Elements whose true gradient is small beside the noise may have the wrong sign.
        clear = true.abs() > 0.7 * true.abs().mean()
        assert bool((found.sign() == true.sign())[clear].all())
        torch.testing.assert_close(found.abs(), torch.ones_like(found), atol=1e-6, rtol=0.0)
    else:
        attack = kind(epsilon=1e-6, step=1e-6, samples=1500, queries=3002, norm=L2, bounds=wide)
        found = attack(model, x, y, generator=seeded()) - x
        cosine = torch.cosine_similarity(found.flatten(1), true.flatten(1))
        assert bool((cosine > 0.97).all())
        torch.testing.assert_close(attack.ball.norm(found), torch.full((8,), 1e-6).double())


@KINDS
def test_what_a_mask_hides_is_not_even_asked_about(build, inputs, kind, watch):
    model = build("conv")
    x, _ = inputs()
    y = model(x).argmax(dim=1)
    mask = torch.zeros(8, 1, 6, 8, dtype=torch.bool)
    for row in range(8):
        mask[row, ..., : row + 1] = True
    seen = []
    model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    kind(queries=60, samples=5, epsilon=1e-4)(model, x, y, generator=seeded(), mask=mask)
    assert len(seen) > 5
    hidden = ~mask
    for asked in seen:
        rows = asked.view(-1, *x.shape)
        assert all(torch.equal(block[hidden], x[hidden]) for block in rows)
    assert torch.equal(estimate(kind(), model, x, y, 3, mask=mask)[hidden], 0.0 * x[hidden])


@KINDS
def test_pairs_asked_together_never_exceed_twice_the_batch(build, inputs, kind):
    model = build("conv")
    x, y = inputs()
    y[:7] = (model(x).argmax(dim=1)[:7] + 1) % 3  # fooled at once
    y[7] = model(x).argmax(dim=1)[7]
    sizes = []
    model.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    kind(queries=100, samples=20, epsilon=1e-6)(model, x, y, generator=seeded())
    assert max(sizes) == 16
    assert len(sizes) < 20


def test_directions_are_normal_or_signs():
    like = torch.empty(50, 1, 20, 20, dtype=torch.float64)
    normal = NES().directions(like, seeded())
    signs = SPSA().directions(like, seeded())
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    for draws, fourth in ((normal, 3.0), (signs, 1.0)):
        assert draws.shape == like.shape
        assert draws.dtype == like.dtype
        assert abs(float(draws.mean())) < 0.03
        assert float(draws.pow(2).mean()) == pytest.approx(1.0, abs=0.04)
        assert float(draws.pow(4).mean()) == pytest.approx(fourth, abs=0.35)


@KINDS
@pytest.mark.parametrize("epsilon", [0.001, 0.02, 1.0])
@pytest.mark.parametrize("norm", [Linf, L2])
def test_the_step_grows_with_the_radius(build, inputs, kind, norm, epsilon):
    model = build("linear")
    x, _ = inputs()
    y = model(x).argmax(dim=1)

    class Stubborn(torch.nn.Module):
        """Is never fooled, and its margin still falls."""

        def forward(self, x):
            logits = model(x)
            kept = torch.nn.functional.one_hot(y, logits.shape[1]).repeat(len(x) // len(y), 1)
            return logits + 1e3 * kept

    attack = kind(epsilon=epsilon, norm=norm, queries=600, bounds=(-9.0, 9.0))
    moved = attack.ball.norm(attack(Stubborn(), x, y, generator=seeded()) - x)
    assert bool((moved >= 0.9 * epsilon).all())
