"""A model that errs by a coin, asked again and again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from servax.evaluation.answers import asked, shares, worst


class Coin(nn.Module):
    """Says class 1 with the probability that an input is, sure of it, else class 0, hardly."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = torch.Generator().manual_seed(0)
        self.said: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = torch.rand(len(x), generator=self.draws) < x[:, 0]
        self.said.append(said)
        return torch.stack([torch.full((len(x),), 0.1), torch.where(said, 5.0, 0.0)], dim=1)


def test_shares_are_those_of_the_answers() -> None:
    x, y = torch.tensor([[0.0], [0.4], [0.6], [1.0]]), torch.tensor([1, 1, 1, 1])
    model = Coin()
    found = asked(model, x, y, 50)
    hits = torch.stack(model.said).double()  # (50, 4)
    assert hits.shape == (50, 4)
    assert np.allclose(found["right"], hits.mean(0))
    sure, hardly = torch.tensor([0.1, 5.0]).softmax(0)[1], torch.tensor([0.1, 0.0]).softmax(0)[1]
    mean = hits.mean(0) * sure + (1 - hits.mean(0)) * hardly
    # A sure answer outweighs hesitant ones: the mean of probabilities is no vote.
    assert found["in_mean"].tolist() == (mean > 0.5).tolist() == [False, True, True, True]
    assert shares(found)["right_once"] == pytest.approx(float(hits.mean()))
    assert shares(found)["right_in_mean"] == 0.75
    assert shares(found)["right_in_all"] == 0.25


def test_the_worst_is_per_utterance_and_survives_a_file() -> None:
    one = pd.DataFrame({"right": [1.0, 0.5, 1.0], "in_mean": [True, False, True]})
    two = pd.DataFrame({"right": [0.2, 1.0, 1.0], "in_mean": [True, True, True]})
    again = pd.DataFrame(json.loads(json.dumps(two.to_dict("list"))))
    found = worst([one, again])
    assert found["right"].tolist() == [0.2, 0.5, 1.0]
    assert found["in_mean"].tolist() == [True, False, True]
    assert shares(found)["right_in_all"] == pytest.approx(1 / 3)
