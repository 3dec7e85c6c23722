from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from servax.errors import SettingError
from servax.features import SpecAugment

SHAPE = torch.Size((6, 1, 20, 50))


def draw(augment, seed=0, shape=SHAPE):
    return augment.draw(shape, torch.Generator().manual_seed(seed))


def runs(line):
    """Return the lengths of the stretches of true in a boolean vector."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.numpy().astype(int), [0]])))
    return edges[1::2] - edges[::2]


@given(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 15))
def test_time_masks_are_few_and_narrow_and_cover_all_mel_bins(seed, masks, width):
    mask = draw(SpecAugment(time_masks=masks, time_width=width, mel_masks=0), seed)
    assert mask.shape == SHAPE
    assert mask.dtype == torch.bool
    assert torch.equal(mask, mask[:, :, :1].expand(SHAPE))
    for utterance in mask:
        lengths = runs(utterance[0, 0])
        assert len(lengths) <= masks
        assert lengths.sum() <= masks * width


@given(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 8))
def test_mel_masks_are_few_and_narrow_and_cover_all_frames(seed, masks, width):
    mask = draw(SpecAugment(time_masks=0, mel_masks=masks, mel_width=width), seed)
    assert torch.equal(mask, mask[..., :1].expand(SHAPE))
    for utterance in mask:
        lengths = runs(utterance[0, :, 0])
        assert len(lengths) <= masks
        assert lengths.sum() <= masks * width


def test_every_width_up_to_the_widest_and_every_place_occurs():
    augment = SpecAugment(time_masks=1, time_width=4, mel_masks=0)
    masks = draw(augment, shape=torch.Size((4_000, 1, 1, 10)))[:, 0, 0]
    widths, counts = np.unique(masks.sum(dim=1).numpy(), return_counts=True)
    assert widths.tolist() == [0, 1, 2, 3, 4]
    assert counts.min() > 600  # 800 each on average
    assert masks.any(dim=0).all()


def test_utterances_get_masks_of_their_own_and_a_seed_repeats_them():
    augment = SpecAugment(mel_width=5, time_width=20)
    mask = draw(augment, seed=3)
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(mask, draw(augment, seed=3))
    assert not torch.equal(mask, draw(augment, seed=4))


def test_masks_wider_than_the_spectrogram_still_fit():
    mask = draw(SpecAugment(time_width=500, mel_width=500))
    assert mask.shape == SHAPE


def test_apply_puts_the_mean_of_each_utterance_under_the_mask_and_leaves_the_rest():
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    mask = draw(SpecAugment(time_width=20), seed=1)
    masked = SpecAugment().apply(x, mask)
    assert torch.equal(masked[~mask], x[~mask])
    for i in range(len(x)):
        expected = x[i].double().mean()
        assert masked[i][mask[i]].numpy() == pytest.approx(float(expected), rel=1e-5)


def test_no_masks_change_nothing():
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    augment = SpecAugment(time_masks=0, mel_masks=0)
    assert torch.equal(augment.apply(x, draw(augment)), x)


@pytest.mark.parametrize("name", ["time_masks", "time_width", "mel_masks", "mel_width"])
def test_negative_settings_are_refused(name):
    sentence = f"{name} is -1, expected a whole number of at least 0."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        SpecAugment(**{name: -1})
