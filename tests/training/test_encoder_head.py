"""The head of a speech encoder: as scikit-learn fits one, and on noise as it was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize

from servax.errors import CorpusError, SettingError
from servax.features import Dataset, Features
from servax.models import EncoderHead
from servax.training import AS_IT_IS, HeadTraining, NoisyCopy, choose_head, with_noise
from servax.training.encoder_head import fit_head, recall

LABELS = ("angry", "happy", "sad")


def statistics(rows: int, seed: int, layers: int = 2, width: int = 3) -> torch.Tensor:
    draws = np.random.default_rng(seed)
    return torch.from_numpy(draws.normal(2.0, 3.0, (rows, layers, 2 * width)).astype(np.float32))


def loss_by_hand(
    vector: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    steadiness: float,
) -> float:
    """Return the loss of a head in one vector; the second half of `x` copies the first."""
    classes, layers, size = len(weights), x.shape[1], x.shape[2]
    shares, rest = np.exp(vector[:layers]), vector[layers:]
    linear, bias = rest[: classes * size].reshape(classes, size), rest[classes * size :]
    standard = (x - x.mean(0)) / x.std(0)
    logits = np.einsum("l,nld->nd", shares / shares.sum(), standard) @ linear.T + bias
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    mean = -(weights[y] * logs[np.arange(len(y)), y]).sum() / weights[y].sum()
    apart = np.subtract(*np.split(logits, 2))  # the variance of two is half their squared distance
    unsteady = ((apart - apart.mean(1, keepdims=True)) ** 2 / 2).sum(1).mean()
    squares = (linear**2).sum() + (vector[:layers] ** 2).sum()
    return float(mean + penalty * squares + steadiness * unsteady)


@pytest.mark.parametrize("steadiness", [0.0, 0.3])
def test_the_head_minimises_the_penalised_loss(steadiness: float) -> None:
    x, y = statistics(40, seed=1), torch.arange(40) % 3
    x[20:] = 0.7 * x[:20] + 0.3 * x[20:]  # or noise alone would tell them apart
    weights = torch.tensor([1.0, 2.0, 0.5])
    head = fit_head([x[:20], x[20:]], y[:20], weights, 0.05, steadiness)
    both = torch.cat([y[:20], y[:20]]).numpy()
    given = (x.double().numpy(), both, weights.double().numpy(), 0.05, steadiness)
    found = np.concatenate(
        [
            part.detach().double().numpy().ravel()
            for part in (head.weights, *head.linear.parameters())
        ]
    )
    best = optimize.minimize(loss_by_hand, np.zeros(len(found)), args=given, tol=1e-10)
    assert loss_by_hand(found, *given) == pytest.approx(best.fun, abs=2e-5)
    assert loss_by_hand(found, *given) < loss_by_hand(np.zeros(len(found)), *given) - 0.05


def test_the_same_statistics_give_the_same_head() -> None:
    x, y = statistics(30, seed=2), torch.arange(30) % 3
    heads = [fit_head([x], y, torch.ones(3), penalty=0.1) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(h.parameters() for h in heads), strict=True))


@pytest.fixture
def heard(make_dataset: Any) -> Any:
    """Return what makes statistics of utterances whose class stands in one number."""

    def make(labels: list[int], seed: int) -> Dataset:
        plain = make_dataset(labels, classes=LABELS)
        values = statistics(len(labels), seed).numpy()
        values[np.arange(len(labels)), :, labels] += 20.0
        features = Features(values, tuple(map(str, plain.corpus.utterances["utterance"])))
        return Dataset(plain.corpus, features, AS_IT_IS)

    return make


def test_validation_chooses_and_then_trains(heard: Any) -> None:
    labels = [0, 1, 2] * 6
    train = [heard(labels, seed) for seed in (1, 2)]
    validation = [heard([0, 1, 2] * 2, seed) for seed in (3, 4)]
    chosen = choose_head(train, validation, HeadTraining(penalties=(0.01, 0.1)))
    assert (chosen.penalty, chosen.uar) == (0.1, 1.0)  # of equal ones the largest
    new = heard([2, 1, 0], seed=5)
    assert recall(chosen.head, [new.batch(np.arange(3)).x[:, 0]], new.labels) == 1.0
    everybody = torch.cat([d.batch(np.arange(len(d))).x[:, 0] for d in (*train, *validation)])
    torch.testing.assert_close(chosen.head.centre, everybody.mean(0))


def test_a_vaccinated_head_is_chosen_by_its_mean_answer() -> None:
    head = EncoderHead(2, 1, 1)
    head.linear.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    head.linear.bias.data.zero_()
    # Two copies of two utterances of class 0: each is wrong once, one by less than it is right.
    copies = [
        torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]]),
        torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]]]),
    ]
    y = torch.tensor([0, 0])
    assert [recall(head, [copy], y) for copy in copies] == [1.0, 0.0]
    assert recall(head, copies, y) == 0.5


def test_a_vaccinated_head_hears_nothing_without_noise() -> None:
    copies = HeadTraining.vaccinated(15.0, draws=3).copies(seed=2)
    sound = 0.1 * torch.randn(1, 32_000, generator=torch.Generator().manual_seed(1))
    for copy in copies:
        assert copy is not None
        noise = copy(sound) - sound
        assert 10 * np.log10(power(sound) / power(noise)) == pytest.approx(15.0, abs=1e-3)
    assert len({copy(sound).sum() for copy in copies if copy}) == 3
    assert HeadTraining(draws=2).copies(seed=2)[0] is None


def test_a_class_that_nobody_says_is_refused(heard: Any) -> None:
    with pytest.raises(CorpusError, match="no training utterance is labelled sad"):
        choose_head([heard([0, 1], 1)], [heard([0, 1, 2], 2)], HeadTraining(draws=0))


def power(sound: torch.Tensor) -> float:
    return float(sound.double().square().mean())


def test_noise_has_the_level_that_was_asked_for() -> None:
    draws = torch.Generator().manual_seed(0)
    sound, noise = (torch.randn(2, 5_000, generator=draws) for _ in range(2))
    noisy = with_noise(0.01 * sound, noise, 20.0)
    for row in range(2):
        ratio = power(0.01 * sound[row]) / power(noisy[row] - 0.01 * sound[row])
        assert 10 * np.log10(ratio) == pytest.approx(20.0, abs=1e-3)


def test_a_copy_follows_from_sound_seed_and_number() -> None:
    sound = 0.1 * torch.randn(1, 32_000, generator=torch.Generator().manual_seed(1))
    copy = NoisyCopy(10.0, 10.0, 0.0, seed=3, number=1)
    assert torch.equal(copy(sound), copy(sound))
    others = (NoisyCopy(10.0, 10.0, 0.0, 4, 1), NoisyCopy(10.0, 10.0, 0.0, 3, 2))
    assert not any(torch.equal(other(sound), copy(sound)) for other in others)
    ratio = power(sound) / power(copy(sound) - sound)
    assert 10 * np.log10(ratio) == pytest.approx(10.0, abs=1e-3)
    lengths = {NoisyCopy(9.0, 9.0, 0.5, 3, n)(sound).shape[1] for n in range(1, 9)}
    assert min(lengths) < 32_000 < max(lengths)
    assert all(24_000 <= length <= 40_000 for length in lengths)


def test_white_noise_is_white_and_coloured_noise_is_not() -> None:
    sound = torch.ones(1, 64_000)
    shares = []
    for coloured in (0.0, 1.0):
        noise = NoisyCopy(0.0, 0.0, 0.0, seed=1, number=1, coloured=coloured)(sound) - sound
        spectrum = torch.fft.rfft(noise[0]).abs().square()
        shares.append(float(spectrum[: len(spectrum) // 2].sum() / spectrum.sum()))
    assert shares[0] == pytest.approx(0.5, abs=0.02)
    assert shares[1] > 0.6


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"draws": -1}, "draws is -1, expected a whole number from 0 to 100"),
        ({"lowest_snr_db": 50.0}, "lowest_snr_db is 50.0, expected at most highest_snr_db .40."),
        ({"shift_seconds": 2.0}, "shift_seconds is 2.0, expected a number in"),
        ({"penalties": ()}, r"penalties is \(\), expected numbers above 0"),
        ({"vaccinate_db": 70.0}, r"snr_db is 70.0, expected a number of dB in \[-10, 60\]"),
        ({"vaccinate_db": 15.0, "draws": 1}, "draws is 1, expected at least 2 with vaccinate_db"),
        ({"steadiness": 1.0}, "steadiness is 1.0, expected 0 without vaccinate_db"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        HeadTraining(**settings)
