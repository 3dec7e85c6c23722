"""What is exported: a purifier alone, or all that comes between a waveform and logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from servax.errors import SettingError
from servax.export.front_end import GraphFrontEnd
from servax.models import CRNN, frozen
from servax.purifier import Purifier
from servax.recognition import Recogniser


class PurifierGraph(nn.Module):
    """Maps log-Mel (B, 1, M, F) on [0, 1] to purified log-Mel of the same shape.

    Args:
        purifier: What is exported; its weights are copied.
    """

    inputs, outputs = ("logmel",), ("purified",)

    def __init__(self, purifier: Purifier) -> None:
        super().__init__()
        self.mels = purifier.front_end.logmel.mels
        self.network = graph_network(purifier.network)

    def forward(self, logmel: Tensor) -> Tensor:
        """Return purified log-Mel (B, 1, M, F)."""
        purified: Tensor = self.network(logmel).clamp(0.0, 1.0)
        return purified


class DefendedGraph(nn.Module):
    """Maps waveforms (B, T) to the logits (B, C) behind the purifier, the bare logits and a score.

    Args:
        purifier: Stands before the recogniser.
        recogniser: Gives front-end, scale and logits.

    Raises:
        SettingError: The purifier was trained on another front-end or scale.
    """

    inputs = ("waveform",)
    outputs = ("logits", "undefended_logits", "residual")

    def __init__(self, purifier: Purifier, recogniser: Recogniser) -> None:
        super().__init__()
        if not purifier.fits(recogniser.scale, recogniser.front_end):
            raise SettingError(
                "recogniser",
                "of another log-Mel, level or scale",
                "one of the front-end and the scale that the purifier was trained on",
            )
        self.front_end = GraphFrontEnd(recogniser.front_end)
        self.scale = recogniser.scale
        self.purifier = PurifierGraph(purifier)
        self.recogniser = graph_network(recogniser.network)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, C), those without the purifier, and the residual score (B,).

        The score is the mean change by the purifier (`servax.defences.Detector`).
        """
        x = self.scale(self.front_end(waveform))
        purified = self.purifier(x)
        residual = (x - purified).abs().mean(dim=(1, 2, 3))
        return self.recogniser(purified), self.recogniser(x), residual


def graph_network(network: nn.Module) -> nn.Module:
    """Return a frozen copy that an exporter can read; batch norms are folded."""
    twin = frozen(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if isinstance(twin, CRNN):
        twin.register_module("gru", GraphGru(twin.gru))
    return twin  # type: ignore[no-any-return]


class GraphGru(nn.Module):
    """A bidirectional GRU of one layer as ONNX's own operator, which the exporter does not know.

    Args:
        gru: Gives the weights; with batches first.
    """

    w: Tensor
    r: Tensor
    b: Tensor

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.gru = gru
        self.hidden = gru.hidden_size
        ends = ("", "_reverse")
        for name, kind in (("w", "weight_ih_l0"), ("r", "weight_hh_l0")):
            both = [_update_first(getattr(gru, kind + end)) for end in ends]
            self.register_buffer(name, torch.stack(both), persistent=False)
        biases = [
            torch.cat([_update_first(getattr(gru, f"bias_{of}_l0{end}")) for of in ("ih", "hh")])
            for end in ends
        ]
        self.register_buffer("b", torch.stack(biases), persistent=False)

    @property
    def weight_ih_l0(self) -> Tensor:
        """What tells `CRNN` where it is computed."""
        weights: Tensor = self.gru.weight_ih_l0  # type: ignore[assignment]
        return weights

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return hidden states (B, F, 2 * hidden) of x (B, F, features)."""
        if not torch.compiler.is_exporting():
            hidden, _ = self.gru(x)
            return hidden, None
        batch, frames = x.shape[:2]
        found = torch.onnx.ops.symbolic(
            "GRU",
            [x.transpose(0, 1), self.w, self.r, self.b],
            {"hidden_size": self.hidden, "direction": "bidirectional", "linear_before_reset": 1},
            dtype=x.dtype,
            shape=(frames, 2, batch, self.hidden),
        )
        return found.permute(2, 0, 1, 3).flatten(2), None


def _update_first(weights: Tensor) -> Tensor:
    """Return torch's gates (reset, update, new) in ONNX's order (update, reset, new)."""
    reset, update, new = weights.detach().chunk(3)
    return torch.cat([update, reset, new])
