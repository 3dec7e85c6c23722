from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, strategies as st

from servax.errors import SettingError
from servax.features import fit_frames


def ramp(frames):
    """Return one Mel bin whose values count its frames, above a bin of -1, (1, 1, 2, F)."""
    counting = torch.arange(frames, dtype=torch.float32)
    return torch.stack([counting, torch.full((frames,), -1.0)])[None, None]


@pytest.mark.parametrize(
    ("have", "frames", "expected"),
    [
        (3, 3, [0, 1, 2]),
        (3, 7, [0, 1, 2, 0, 1, 2, 0]),
        (1, 4, [0, 0, 0, 0]),
        (5, 3, [1, 2, 3]),
        (6, 3, [1, 2, 3]),  # of two middles the earlier one
        (6, 1, [2]),
    ],
)
def test_repeat_and_middle_crop_by_hand(have, frames, expected):
    assert fit_frames(ramp(have), frames)[0, 0, 0].tolist() == expected


def test_floor_fills_with_each_spectrograms_own_lowest_value():
    two = torch.cat([ramp(2), ramp(2) + 5.0])
    filled = fit_frames(two, 4, fill="floor")
    assert filled[0, 0].tolist() == [[0, 1, -1, -1], [-1, -1, -1, -1]]
    assert filled[1, 0].tolist() == [[5, 6, 4, 4], [4, 4, 4, 4]]


def test_floor_crops_like_repeat():
    assert torch.equal(fit_frames(ramp(9), 4, fill="floor"), fit_frames(ramp(9), 4))


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_result_has_the_asked_frames_and_only_old_values(have, frames):
    fitted = fit_frames(ramp(have), frames)
    assert fitted.shape == (1, 1, 2, frames)
    index = fitted[0, 0, 0]
    start = max(0, (have - frames) // 2)
    assert torch.equal(index, (torch.arange(frames) + start) % have)


@pytest.mark.parametrize(
    ("have", "frames", "fill", "sentence"),
    [
        (3, 0, "repeat", "frames is 0, expected a whole number of at least 1."),
        (0, 4, "repeat", "number of frames is 0, expected at least 1 to crop or to fill from."),
        (
            3,
            4,
            "repeated",
            "fill is 'repeated', expected one of floor, repeat. Did you mean 'repeat'?",
        ),
    ],
)
def test_refusals(have, frames, fill, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        fit_frames(ramp(have), frames, fill=fill)
