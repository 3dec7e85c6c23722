"""One change for all: closed forms, strength on unseen utterances, storage, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from servax.attacks import Counting, UniversalPerturbation
from servax.errors import CheckpointError, SettingError, ShapeError
from servax.perturbation import L2, Linf


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def weights_of(model):
    return (model.layer.weight[1] - model.layer.weight[0]).detach().view(1, 1, 6, 8)


@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_models_change_has_a_closed_form(build, inputs, norm, targeted):
    model = build("linear")
    x, _ = inputs()
    y = torch.full((8,), 1 if targeted else 0)  # both lead towards class 1
    found = UniversalPerturbation.fit(
        model,
        [(x[:4], y[:4]), (x[4:], y[4:])],
        generator=seeded(),
        epsilon=0.3,
        norm=norm,
        step=0.1,
        bounds=(-9.0, 9.0),
        targeted=targeted,
    )
    weights = weights_of(model)
    unit = weights.sign() if norm is Linf else weights / weights.norm()
    torch.testing.assert_close(found.change, 0.3 * unit)
    torch.testing.assert_close(found.apply(x), x + 0.3 * unit)


@pytest.mark.parametrize("epsilon", [0.02, 1.0])
def test_the_step_grows_with_the_radius(build, inputs, epsilon):
    x, y = inputs()
    found = UniversalPerturbation.fit(
        build("linear"),
        [(x, torch.zeros_like(y))],
        generator=seeded(),
        epsilon=epsilon,
        epochs=2,
        bounds=(-9.0, 9.0),
    )
    # Two steps straight up a linear model's slope.
    torch.testing.assert_close(found.change.abs(), torch.full_like(found.change, 0.3 * epsilon))


def test_it_fools_utterances_it_was_not_fitted_on(build):
    model = build("conv")
    draws = torch.rand(120, 1, 6, 8, generator=seeded(1), dtype=torch.float64)
    y = model(draws).argmax(dim=1)
    # One class, so that leading away from it is one direction.
    rows = (y == y.mode().values).nonzero().flatten()
    x, y = draws[rows], y[rows]
    half = len(x) // 2
    batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, half, 8)]
    epsilon = 0.15
    fitted = UniversalPerturbation.fit(
        model, batches, generator=seeded(), epsilon=epsilon, step=0.02, epochs=6
    )
    unseen, right = x[half:], y[half:]

    def fooled(z):
        return float((model(z).argmax(dim=1) != right).double().mean())

    signs = torch.randint(0, 2, (20, 1, 6, 8), generator=seeded(4)) * 2 - 1
    noise = [fooled((unseen + epsilon * sign).clamp(0.0, 1.0)) for sign in signs]
    assert fooled(fitted(model, unseen, right)) > max(noise)
    # No change is worse than none.
    assert fooled(unseen) == 0.0


def slowly_fitted(model, batches, *, epsilon, step, epochs, clip, order):
    """Return the change of algorithm 1, written out for two norms' simpler one, L-inf."""
    change = torch.zeros_like(batches[0][0][:1])
    for _ in range(epochs):
        for position in torch.randperm(len(batches), generator=order).tolist():
            x, y = batches[position]
            leaf = change.clone().requires_grad_(True)
            total = 0.0
            for one, label in zip(x, y, strict=True):
                logits = model((one[None] + leaf).clamp(0.0, 1.0))
                loss = torch.logsumexp(logits[0], dim=0) - logits[0, label]
                total = total + torch.minimum(loss, torch.tensor(clip, dtype=loss.dtype))
            total.backward()
            change = (change + step * leaf.grad.sign()).clamp(-epsilon, epsilon)
    return change


@pytest.mark.parametrize("clip", [1.1, 9.0])
def test_fitting_is_algorithm_1_of_the_paper(build, inputs, clip):
    model = build("conv")
    x, y = inputs()
    batches = [(x[:3], y[:3]), (x[3:6], y[3:6]), (x[6:], y[6:])]
    settings = {"epsilon": 0.1, "step": 0.03, "epochs": 3, "clip": clip}
    found = UniversalPerturbation.fit(model, batches, generator=seeded(7), **settings)
    expected = slowly_fitted(model, batches, order=seeded(7), **settings)
    torch.testing.assert_close(found.change, expected)
    assert 0 < int((expected.abs() == 0.1).sum()) < 48


def fitted(model, inputs, **settings):
    settings = {"epsilon": 0.1, "step": 0.02, "epochs": 2, **settings}
    return UniversalPerturbation.fit(model, [inputs()], generator=seeded(), **settings)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_as_an_attack_it_asks_nothing_and_keeps_ball_bounds_and_mask(build, inputs, norm):
    model = Counting(build("conv").train())
    universal = fitted(model, inputs, norm=norm)
    assert model.training
    model.reset()
    x, y = inputs()
    mask = (torch.arange(8) < torch.arange(8).view(-1, 1)).view(8, 1, 1, 8)
    found = universal(model, x, y, mask=mask)
    assert (model.forward_rows, model.backward_rows) == (0, 0)
    assert torch.equal(found, universal.apply(x, mask=mask))
    hidden = ~mask.expand(x.shape)
    assert torch.equal(found[hidden], x[hidden])
    assert torch.equal(universal(model, x, y)[~hidden], found[~hidden])
    assert (universal.ball.norm(found - x) <= 0.1 * (1 + 1e-9)).all()
    assert universal.apply(x.float()).dtype == torch.float32


def test_hidden_elements_do_not_shape_the_change(build, inputs):
    x, y = inputs()
    mask = (torch.arange(8) < 5).view(1, 1, 1, 8)
    found = UniversalPerturbation.fit(build("conv"), [(x, y, mask)], generator=seeded())
    assert bool((found.change[..., 5:] == 0).all())
    assert bool((found.change[..., :5] != 0).any())


@pytest.mark.parametrize("norm", [Linf, L2])
def test_what_is_saved_is_loaded(build, inputs, tmp_path, norm):
    universal = fitted(build("conv"), inputs, norm=norm, bounds=(-0.5, 2.0), targeted=True)
    universal.save(tmp_path / "new" / "folder")
    loaded = UniversalPerturbation.load(tmp_path / "new" / "folder")
    assert torch.equal(loaded.change, universal.change)
    assert replace(loaded, change=universal.change).__dict__ == universal.__dict__


def test_broken_folders_are_refused(build, inputs, tmp_path):
    universal = fitted(build("conv"), inputs)
    with pytest.raises(CheckpointError, match=r"change\.safetensors: no such file; expected a"):
        UniversalPerturbation.load(tmp_path)
    universal.save(tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    for change, sentence in (
        ({"norm": "L1"}, "is cut short or altered"),
        ({"extra": 1}, "is cut short or altered"),
        ({"epsilon": 0.01}, "change is '0.04 large', expected at most epsilon, 0.01"),
        ({"bounds": [1.0, 0.0]}, re.escape("bounds is (1.0, 0.0), expected (low, high)")),
    ):
        (tmp_path / "settings.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(CheckpointError, match=sentence):
            UniversalPerturbation.load(tmp_path)
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is cut short or altered"):
        UniversalPerturbation.load(tmp_path)
    universal.save(tmp_path)
    whole = (tmp_path / "change.safetensors").read_bytes()
    (tmp_path / "change.safetensors").write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="is cut short or altered"):
        UniversalPerturbation.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        universal.save(tmp_path / "file")


def test_bad_uses_are_refused(build, inputs):
    model = build("conv")
    x, y = inputs()
    fit = UniversalPerturbation.fit
    for settings, sentence in (
        ({"step": 0.0}, "step is 0.0, expected a finite number above 0."),
        ({"clip": -1.0}, "clip is -1.0, expected a finite number above 0."),
        ({"epochs": 0}, "epochs is 0, expected a whole number of at least 1."),
        ({"epsilon": -1.0}, "epsilon is -1.0, expected a finite number of at least 0."),
        ({"norm": "L2"}, "norm is 'L2', expected servax.perturbation.Linf or L2 (the class)."),
    ):
        with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
            fit(model, [(x, y)], generator=seeded(), **settings)
    with pytest.raises(SettingError, match=r"^batches is 'empty', expected at least one batch"):
        fit(model, [], generator=seeded())
    with pytest.raises(ShapeError, match=re.escape("expected (B, 1, 6, 8), as the first batch.")):
        fit(model, [(x, y), (x[..., :5], y)], generator=seeded(1), epochs=9)
    universal = fit(model, [(x, y)], generator=seeded())
    with pytest.raises(ShapeError, match=re.escape("expected (B, 1, 6, 8), as the change was")):
        universal(nn.Flatten(), x[..., :5], y)
    with pytest.raises(ShapeError, match=re.escape("(1, ...), one change for all inputs")):
        UniversalPerturbation(change=x, epsilon=1.0)
