"""The purifier network of the paper: a transformer encoder over frames.

Paper, section 3.2.2: 6 transformer blocks, 8 heads, input size 64, so a token is one frame of 64
Mel values. Ours, since the paper is silent: feed-forward 512 (.5 M parameters), sinusoidal
positions, layer norm before each part, no dropout, a linear map in and out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from servax.errors import SettingError
from servax.features import check_log_mels, check_type
from servax.kinds import check_size, typed

NARROWEST = 16
"""Width of an attention head that torch's kernels for CPUs are made for."""


@dataclass(frozen=True)
class FrameTransformerSettings:
    """What rebuilds a `FrameTransformer`."""

    mels: int = 64
    """Mel bins of a frame: the size of a token."""
    blocks: int = 6
    """Transformer blocks."""
    heads: int = 8
    """Attention heads; must divide `mels`."""
    feedforward: int = 512
    """Hidden size of the feed-forward part of a block."""
    residual: bool = False
    """Predict a change that is added to the input, instead of the spectrogram outright."""

    def __post_init__(self) -> None:
        check_size("mels", self.mels, largest=4096)
        check_size("blocks", self.blocks, largest=256)
        check_size("heads", self.heads, largest=4096)
        check_size("feedforward", self.feedforward, largest=65_536)
        if self.mels % self.heads:
            raise SettingError("heads", self.heads, f"a divisor of mels ({self.mels})")
        if not isinstance(self.residual, bool):
            raise SettingError("residual", self.residual, "true or false")


class FrameTransformer(nn.Module):
    """Maps spectrograms (B, 1, M, F) to spectrograms of the same shape; any F."""

    def __init__(
        self,
        mels: int = 64,
        blocks: int = 6,
        heads: int = 8,
        feedforward: int = 512,
        residual: bool = False,
    ) -> None:
        super().__init__()
        s = self.settings = FrameTransformerSettings(mels, blocks, heads, feedforward, residual)
        layer = Block(
            s.mels, s.heads, s.feedforward, dropout=0.0, batch_first=True, norm_first=True
        )
        self.embed = nn.Linear(s.mels, s.mels)
        self.encoder = nn.TransformerEncoder(
            layer, s.blocks, norm=nn.LayerNorm(s.mels), enable_nested_tensor=False
        )
        self.out = nn.Linear(s.mels, s.mels)
        # TransformerEncoder copies one layer; without this all blocks would start equal.
        for parameter in self.encoder.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        if s.residual:
            # The untrained network then changes nothing.
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        """Return the purified spectrograms (B, 1, M, F), not clamped."""
        check_log_mels(x, self.settings.mels)
        check_type("x", x.dtype, self.embed.weight)
        tokens = x.squeeze(1).transpose(1, 2)  # (B, F, M)
        # Vaswani et al. 2017, section 3.4: without the factor the positions would drown the sound.
        hidden = self.embed(tokens) * math.sqrt(self.settings.mels)
        hidden = hidden + positions(tokens.shape[1], tokens.shape[2]).to(tokens)
        change: Tensor = self.out(self.encoder(hidden))
        purified = change.transpose(1, 2).unsqueeze(1)  # (B, 1, M, F)
        return x + purified if self.settings.residual else purified


class Block(nn.TransformerEncoderLayer):
    """A block of an encoder with the norm first and no dropout: same parameters, same function.

    torch's own hands attention tensors whose rows lie a whole batch apart; laid out row by row they
    cost half. Its other path, taken where nothing needs a gradient, is slower on a CPU and rounds
    otherwise; this has one path.
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return the block's output (B, F, M) of tokens (B, F, M); masks are not looked at."""
        x = src + self._attended(self.norm1(src))
        onward: Tensor = self.linear2(self.linear1(self.norm2(x)).relu_())
        return x + onward

    def _attended(self, x: Tensor) -> Tensor:
        attention = self.self_attn
        batch, frames, mels = x.shape
        heads = attention.num_heads
        size = mels // heads
        together = linear(x, attention.in_proj_weight, attention.in_proj_bias)  # (B, F, 3 M)
        split = together.view(batch, frames, 3, heads, size).permute(2, 0, 3, 1, 4)
        # A CPU's gradient of narrow heads is slow; with zeros beside them they mean the same, but
        # round otherwise: a trained purifier's answers keep their bits.
        zeros = -size % NARROWEST if self.training and x.device.type == "cpu" else 0
        wide = pad(split, (0, zeros)) if zeros else split.contiguous()
        query, key, value = wide  # each (B, heads, F, M / heads and zeros)
        mixed = scaled_dot_product_attention(query, key, value, scale=1.0 / math.sqrt(size))
        mixed = mixed[..., :size].transpose(1, 2).reshape(batch, frames, mels)
        out: Tensor = attention.out_proj(mixed)
        return out


def positions(length: int, size: int) -> Tensor:
    """Return sinusoidal positions (length, size) (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, size, 2) * (-math.log(10_000.0) / size))
    angles = torch.arange(length)[:, None] * rates
    table = torch.zeros(length, size)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()[:, : size // 2]
    return table
