from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from servax.errors import SettingError
from servax.models import UNet, load_network, save_network
from servax.models.unet import TextureShuffle


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def shuffled_by_scipy(x, signs, keep):
    """Return x (M, F) with the signs of its blocks' high coefficients turned, block by block."""
    out = x.copy()
    for row in range(x.shape[0] // 8):
        for column in range(x.shape[1] // 8):
            place = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            block = dctn(x[place], norm="ortho")
            for u in range(8):
                for v in range(8):
                    if u + v >= keep:
                        block[u, v] *= signs[8 * u + v, row, column]
            out[place] = idctn(block, norm="ortho")
    return out


@pytest.mark.parametrize("keep", [1, 4, 14])
def test_it_turns_signs_of_cosine_coefficients(keep):
    x, shuffle = draw(2, 1, 32, 48), TextureShuffle(keep)
    expected = [shuffled_by_scipy(each[0].numpy(), shuffle.signs.numpy(), keep) for each in x]
    torch.testing.assert_close(
        shuffle(x), torch.from_numpy(np.stack(expected))[:, None], atol=1e-5, rtol=1e-5
    )


def test_energy_stays_and_texture_does_not():
    x = draw(1, 1, 64, 64)
    y = TextureShuffle(4)(x)
    torch.testing.assert_close(y.norm(), x.norm())
    assert (y - x).abs().mean() > 0.1


def test_what_is_smooth_passes_unchanged():
    ramp = torch.linspace(0.2, 0.8, 64)[None, None, :, None].expand(1, 1, 64, 80).contiguous()
    change = (TextureShuffle(8)(ramp) - ramp).abs().max()
    assert change < 1e-5  # a block of a ramp across Mel bins has orders (u, 0) only


def test_half_of_the_signs_turn():
    signs = TextureShuffle(1).signs.flatten(1).float()
    assert (signs[0] == 1).all()
    assert signs[1:].mean().abs() < 0.01


@pytest.mark.parametrize("shape", [(64, 373), (40, 50), (8, 8), (3, 2000)])
def test_any_size_keeps_its_shape(shape):
    assert TextureShuffle(4)(draw(1, 1, *shape)).shape == (1, 1, *shape)


def test_the_pattern_is_saved_with_a_network(tmp_path):
    network = UNet(width=8, levels=2, texture=4)
    network.texture.signs.neg_()  # as if it had been drawn elsewhere
    save_network(network, tmp_path)
    x = draw(1, 1, 64, 80)
    assert torch.equal(load_network(tmp_path).network(x), network(x))


def test_no_random_state_is_touched():
    before = torch.random.get_rng_state()
    TextureShuffle(4)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("keep", [0, 15, 2.0])
def test_orders_that_a_block_has_not_are_refused(keep):
    with pytest.raises(SettingError, match=re.escape("expected a whole number in [1, 14]")):
        TextureShuffle(keep)
