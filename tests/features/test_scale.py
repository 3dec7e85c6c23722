from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from servax.errors import SettingError
from servax.features import Scale, ScaleSettings


def test_fit_takes_the_highest_level_as_the_top():
    scale = Scale.fit(iter([np.array([[-30.0, 12.5]]), np.array([3.0])]), window_db=60.0)
    assert scale.settings == ScaleSettings(top_db=12.5, window_db=60.0)


def test_forward_by_hand():
    scale = Scale(ScaleSettings(top_db=20.0))
    levels = torch.tensor([21.0, 20.0, 0.0, -20.0, -60.0, -61.0, -100.0])
    assert scale(levels).tolist() == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.0, 0.0, 0.0])


def test_inverse_by_hand():
    scale = Scale(ScaleSettings(top_db=20.0))
    assert scale.inverse(torch.tensor([0.0, 0.75, 1.0])).tolist() == [-60.0, 0.0, 20.0]


@given(st.floats(-50, 50), st.floats(1, 120), st.floats(0, 1))
def test_inverse_brings_back_what_lies_in_the_window(top_db, window_db, share):
    scale = Scale(ScaleSettings(top_db, window_db))
    level = torch.tensor([top_db - share * window_db], dtype=torch.float64)
    torch.testing.assert_close(scale.inverse(scale(level)), level, rtol=0, atol=1e-9)


def test_epsilon_db_is_what_the_method_page_says():
    scale = Scale(ScaleSettings(top_db=3.0))
    assert [scale.epsilon_db(e) for e in (0.003, 0.015, 0.06)] == [0.24, 1.2, 4.8]


def test_a_change_of_epsilon_is_epsilon_db():
    scale = Scale(ScaleSettings(top_db=3.0, window_db=70.0))
    x = torch.tensor([0.4], dtype=torch.float64)
    change = scale.inverse(x + 0.01) - scale.inverse(x)
    assert float(change) == pytest.approx(scale.epsilon_db(0.01))


def test_the_gradient_is_one_over_the_window_inside_and_zero_outside():
    levels = torch.tensor([-90.0, -30.0, 30.0], requires_grad=True)
    scale = Scale(ScaleSettings(top_db=0.0))
    (gradient,) = torch.autograd.grad(scale(levels).sum(), levels)
    assert gradient.tolist() == pytest.approx([0.0, 1 / 80, 0.0])


def test_printing_shows_the_window():
    assert repr(Scale(ScaleSettings(12.345, 80.0))) == "Scale(top_db=12.35, window_db=80)"


@pytest.mark.parametrize(
    ("top_db", "window_db", "sentence"),
    [
        (float("nan"), 80.0, "top_db is nan, expected a finite level in dB."),
        (0.0, 0.0, "window_db is 0.0, expected a width above 0 dB."),
        (0.0, float("inf"), "window_db is inf, expected a width above 0 dB."),
    ],
)
def test_settings_outside_their_rule_are_refused(top_db, window_db, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        ScaleSettings(top_db, window_db)


NOTHING = np.zeros((0, 3))


@pytest.mark.parametrize(
    ("logmels", "sentence"),
    [
        ([], "logmels is 'empty', expected at least one spectrogram to fit a scale on."),
        # NaN must be found wherever it stands: max() of Python would pass over the second.
        (
            [[1.0, np.nan], [2.0]],
            "the highest level of spectrogram 0 is nan, expected a finite level in dB.",
        ),
        (
            [[1.0], [0.5, np.nan]],
            "the highest level of spectrogram 1 is nan, expected a finite level in dB.",
        ),
        ([[np.inf]], "the highest level of spectrogram 0 is inf, expected a finite level in dB."),
        ([NOTHING], "the highest level of spectrogram 0 is -inf, expected a finite level in dB."),
    ],
)
def test_fit_refuses_what_has_no_top(logmels, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        Scale.fit([np.asarray(logmel) for logmel in logmels])
