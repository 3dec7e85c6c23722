"""A transformer over 2-D patches behind a convolutional stem: tried, in docs/research.md."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from servax.models.unet import TextureShuffle

PATCH = 4
"""Side of what the stem folds into channels; a token is twice as long and high."""
ROWS = 8
"""Rows of tokens: 64 Mel bins."""


class ConvStem(nn.Module):
    """Maps spectrograms (B, 1, 64, F) to spectrograms of the same shape.

    Convolutions make tokens of 8 Mel bins by 8 frames (Xiao et al. 2021, "Early convolutions help
    transformers see better"), a transformer relates them all, and convolutions predict the change.
    """

    def __init__(self, width: int = 128, layers: int = 4, texture: int = 0) -> None:
        super().__init__()
        self.texture = TextureShuffle(texture) if texture else nn.Identity()
        half = width // 2
        self.stem = nn.Conv2d(PATCH**2, half, 3, padding=1)
        self.halve = nn.Conv2d(half, width, 2, stride=2)
        self.rows = nn.Parameter(0.02 * torch.randn(1, width, ROWS, 1))
        # Where a token stands in time follows from its neighbours (Chu et al. 2021).
        self.place = nn.Conv2d(width, width, 3, padding=1, groups=width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.finer = nn.ConvTranspose2d(width, half, 2, stride=2)
        self.out = nn.Conv2d(half, PATCH**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the purified spectrograms (B, 1, 64, F), not clamped."""
        x = self.texture(x)
        frames = x.shape[3]
        fine = nn.functional.gelu(
            self.stem(pixel_unshuffle(pad(x, (0, -frames % 8, 0, 0), mode="replicate"), PATCH))
        )
        tokens = self.halve(fine) + self.rows
        tokens = tokens + self.place(tokens)
        shape = tokens.shape
        tokens = self.layers(tokens.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(shape)
        hidden = nn.functional.gelu(fine + self.finer(tokens))
        change = pixel_shuffle(self.out(hidden), PATCH)
        return x + change[..., :frames]
