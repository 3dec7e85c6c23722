from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import log_softmax, softmax

from servax.errors import SettingError
from servax.models import CRNN, VGG16, UNet, feature_extractor, frozen
from servax.purifier import PRESETS, DecisionSSA, SurrogateTrainer, SurrogateTraining
from servax.purifier.surrogates import SURROGATE_TAPS, Surrogate, divergence, stretch
from servax.training import Compute, fit, generator, global_seed

LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def vgg(seed=0):
    with global_seed(seed, "weights"):
        return VGG16(4, 2).eval()


def unet(passes=1):
    with global_seed(0, "weights"):
        return UNet(width=8, levels=2, texture=4, passes=passes)


def make_trainer(make_dataset, *, seed=0, network=None, **settings):
    given = SurrogateTraining(**{"batch_size": 4, "frames": 32, "epochs": 2, **settings})
    return SurrogateTrainer(
        network or unet(),
        [vgg(), vgg(1)],
        make_dataset(LABELS),
        make_dataset(LABELS[:5], seed=1),
        given,
        seed=seed,
        compute=Compute("cpu"),
    )


def test_divergence_is_that_of_its_formula():
    a, b = torch.randn(5, 4, generator=generator(0)), torch.randn(5, 4, generator=generator(1))
    p = softmax(a, 1)
    torch.testing.assert_close(
        divergence(a, b), (p * (log_softmax(a, 1) - log_softmax(b, 1))).sum(1)
    )
    assert divergence(a, a).abs().max() < 1e-6


class TestDecisionSSA:
    def test_changes_stay_within_the_budget_and_raise_the_divergence(self):
        x, network = torch.rand(6, 1, 64, 40, generator=generator(0)), vgg()
        logits = network(x).detach()
        ssa = DecisionSSA(epsilon=0.1, steps=4, clean_share=0.0)
        moved = ssa(network, x, logits, generator(1))
        assert (moved - x).abs().max() <= 0.1 + 1e-6
        assert moved.min() >= 0
        assert moved.max() <= 1
        noise = (x + 0.1 * (2 * torch.rand(x.shape, generator=generator(2)) - 1)).clamp(0, 1)
        pushed, shaken = (divergence(logits, network(z).detach()).sum() for z in (moved, noise))
        assert pushed > 2 * shaken

    def test_budgets_differ_and_a_share_stays_clean(self):
        x, network = torch.full((64, 1, 32, 32), 0.5), vgg()
        ssa = DecisionSSA(epsilon=0.2, steps=1, clean_share=0.5)
        moved = ssa(network, x, network(x).detach(), generator(0))
        largest = (moved - x).abs().amax(dim=(1, 2, 3))
        assert 20 < int((largest == 0).sum()) < 44
        rest = largest[largest > 0]
        assert rest.min() < 0.06
        assert rest.max() > 0.14

    def test_one_step_is_a_sign_step_from_the_start(self):
        x, network = torch.rand(2, 1, 32, 32, generator=generator(0)), vgg()
        logits = network(x).detach()
        moved = DecisionSSA(epsilon=0.1, steps=1, clean_share=0.0)(network, x, logits, generator(3))
        draws = generator(3)
        torch.rand((2, 1, 1, 1), generator=draws)
        budgets = 0.1 * torch.rand((2, 1, 1, 1), generator=draws)
        torch.randint(1, 2, (), generator=draws)
        unit = 2 * torch.rand(x.shape, generator=draws) - 1
        leaf = unit.clone().requires_grad_(True)
        p, q = softmax(logits, 1), network((x + budgets * leaf).clamp(0, 1))
        (gradient,) = torch.autograd.grad(-(p * log_softmax(q, 1)).sum(), leaf)
        expected = (x + budgets * (unit + gradient.sign()).clamp(-1, 1)).clamp(0, 1)
        assert (moved - expected).abs().gt(1e-6).float().mean() < 0.01  # signs of near-zero slopes

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"epsilon": 0}, "epsilon is 0, expected a number in (0, 1]"),
            ({"steps": 0}, "steps is 0, expected a whole number of at least 1"),
            ({"clean_share": 1}, "clean_share is 1, expected a share in [0, 1)"),
        ],
    )
    def test_wrong_settings_are_refused(self, settings, sentence):
        with pytest.raises(SettingError, match=re.escape(sentence)):
            DecisionSSA(**settings)


class TestSurrogate:
    def test_features_and_logits_are_those_of_the_whole_network(self):
        network, x = vgg(), torch.rand(2, 1, 64, 40, generator=generator(0))
        with torch.no_grad():
            logits, features = Surrogate(network).read(x)
            torch.testing.assert_close(logits, network(x), atol=1e-4, rtol=1e-4)
            for tap, feature in zip(SURROGATE_TAPS, features, strict=True):
                expected = feature_extractor(network, tap)(x)
                torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-4)

    def test_a_network_without_taps_is_read_at_its_logits(self):
        with global_seed(0, "weights"):
            network = CRNN(4, 2).eval()
        x = torch.rand(2, 1, 64, 40, generator=generator(0))
        logits, features = Surrogate(network).read(x)
        assert features == []
        torch.testing.assert_close(logits, frozen(network)(x))


class TestTrainer:
    def test_training_brings_the_output_nearer_to_the_input(self, make_dataset):
        # Random spectrograms have no speech to learn from; the distance in pixels does fall.
        trainer = make_trainer(make_dataset, epochs=40, warmup_steps=0, feature=0.0, pixel=1.0)
        first = trainer.validate(0)["validation/pixel"]
        for epoch in range(10):
            trainer.train_epoch(epoch, lambda: None)
        assert trainer.validate(10)["validation/pixel"] < first

    def test_the_loss_is_the_weighted_sum_of_its_terms(self, make_dataset):
        trainer = make_trainer(make_dataset, decision=2.0, feature=3.0, pixel=0.5)
        found = trainer.train_epoch(0, lambda: None)
        expected = 2 * found["train/decision"] + 3 * found["train/feature"]
        assert found["train/loss"] == pytest.approx(expected + 0.5 * found["train/pixel"], rel=1e-5)

    def test_of_several_passes_one_learns_from_what_the_earlier_ones_made(self, make_dataset):
        network, heard = unet(passes=3), []
        torch.nn.init.normal_(network.out.weight, std=0.02, generator=generator(0))
        forward = network.forward

        def listening(x, only=None):
            purified = forward(x, only=only)
            heard.append((x, only, purified, torch.is_grad_enabled()))
            return purified

        network.forward = listening
        trainer = make_trainer(make_dataset, network=network)
        for epoch in range(4):
            trainer.train_epoch(epoch, lambda: None)
        last = 0
        while heard:
            steps = []
            while not steps or not steps[-1][3]:
                steps.append(heard.pop(0))
            assert [only for _, only, _, _ in steps] == list(range(len(steps)))
            for one, other in pairwise(steps):
                assert other[0] is one[2]
            last = max(last, len(steps))
        assert last == 3

    def test_labels_do_not_matter(self, make_dataset):

        weights = []
        for labels in (LABELS, LABELS[::-1]):
            trainer = make_trainer(make_dataset)
            trainer._train.labels = torch.tensor(labels)
            trainer.train_epoch(0, lambda: None)
            weights.append(trainer.weights())
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_the_learning_rate_warms_up_and_falls_along_a_cosine(self, make_dataset):
        trainer = make_trainer(make_dataset, warmup_steps=2, epochs=4, learning_rate=0.01)
        steps = 4 * trainer.steps_per_epoch()
        for step in range(1, steps + 1):
            by_hand = 0.01 * min(1, step / 2) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
            assert trainer._rate(step) == pytest.approx(by_hand)

    def test_a_training_is_resumed_bit_for_bit(self, make_dataset, tmp_path):
        settings = {"seed": 0, "settings": "the same"}
        whole = make_trainer(make_dataset, epochs=2)
        fit(whole, whole.settings.schedule(), tmp_path, **settings)

        class KilledError(Exception):
            pass

        def killer(progress):
            if progress.epoch == 1:
                raise KilledError

        folder = tmp_path / "killed"
        folder.mkdir()
        cut = make_trainer(make_dataset, epochs=2)
        with pytest.raises(KilledError):
            fit(cut, cut.settings.schedule(), folder, progress=killer, **settings)
        again = make_trainer(make_dataset, epochs=2)
        fit(again, again.settings.schedule(), folder, **settings)
        found, expected = again.weights(), whole.weights()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_without_surrogates_it_is_refused(self, make_dataset):
        data = make_dataset(LABELS)
        with pytest.raises(SettingError, match=re.escape("at least one trained recogniser")):
            SurrogateTrainer(unet(), [], data, data, SurrogateTraining(), seed=0)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"decision": -1}, "decision is -1, expected a finite number of at least 0"),
            ({"decision": 0, "feature": 0, "pixel": 0}, "at least one above 0"),
            ({"frames": 16}, "frames is 16, expected a whole number of at least 32"),
            ({"batch_size": 1}, "batch_size is 1, expected a whole number of at least 2"),
            ({"learning_rate": 0}, "learning_rate is 0, expected a number in (0, 1]"),
            ({"warmup_steps": -1}, "warmup_steps is -1, expected a whole number of at least 0"),
            ({"clip_norm": -1}, "clip_norm is -1, expected a number of at least 0"),
        ],
    )
    def test_wrong_settings_are_refused(self, settings, sentence):
        with pytest.raises(SettingError, match=re.escape(sentence)):
            SurrogateTraining(**settings)


def test_a_stretch_is_cut_from_each_utterance():
    x = torch.arange(100.0).repeat(3, 1, 2, 1)
    cut = stretch(x, 40, generator(0))
    assert cut.shape == (3, 1, 2, 40)
    assert (cut.diff(dim=3) == 1).all()
    assert len({float(first) for first in cut[:, 0, 0, 0]}) > 1
    assert stretch(x, 100, generator(0)) is x


def test_settings_come_back_from_plain_data():
    from dataclasses import asdict

    training = SurrogateTraining(ssa=DecisionSSA(steps=2))
    assert SurrogateTraining(**asdict(training)) == training


def test_presets_say_what_their_training_has_not_seen():
    assert PRESETS["ssad"].unseen == ("P0", "P2", "P3")
    assert PRESETS["ssad-plus"].unseen == ("P0", "P2")
