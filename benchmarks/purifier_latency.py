"""How long the purifier keeps one clip of 6 s waiting, on one thread, beside what it protects.

The packaged purifier takes log-Mel (64 x 373) to log-Mel, as it stands in front of a recogniser;
`Purifier.purify` takes sound to sound. Beside them stand the published VGG-16 (width 64) as it was
trained and as servax freezes it (`servax.models.frozen`), and a residual network of as many
convolution weights as NRP's ResG has (1.2 million, Naseer et al. 2020), in full resolution.
That network is built here, equal in size: it is not NRP, and its weights are random, which costs
the same.

    python benchmarks/purifier_latency.py --threads 1
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch
from clips import RATE, six_seconds
from floor import Rates, Work, measure_rates, work_of
from harness import Defaults, Row, Times, floor_told, parser, race, ratio, write
from torch import Tensor, nn

from servax.features import FrontEnd, waveform_batch
from servax.models import VGG16, frozen
from servax.pretrained import PURIFIER
from servax.purifier import Purifier

CHANNELS, BLOCKS = 64, 16
CALLS = 8
"""Of each contender in a round: one alone is shorter than what the clock disturbs."""
LARGEST_SHARE, LARGEST_FACTOR = 0.10, 0.005


class Residual(nn.Module):
    """Convolution, residual blocks of two 3x3 convolutions, convolution; full resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            )
            for _ in range(BLOCKS)
        )
        self.last = nn.Conv2d(CHANNELS, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the purified spectrograms (B, 1, M, F)."""
        hidden = self.first(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        changed: Tensor = x + self.last(hidden)
        return changed


def main() -> int:
    """Time the contenders; 0 when all targets are met."""
    given = parser(__doc__.splitlines()[0], Defaults(threads=1)).parse_args()
    torch.set_num_threads(given.threads)
    purifier = Purifier.from_pretrained(PURIFIER).frozen()
    sound = six_seconds()
    window = sound[: int(purifier.clip_seconds * RATE)]
    with torch.inference_mode():
        x = purifier.scale(FrontEnd(purifier.front_end)(waveform_batch(sound)))
    trained = VGG16(4, 64).eval()
    like_nrp = frozen(Residual())
    networks = {
        "purifier": purifier,
        "VGG-16 as trained": trained,
        "VGG-16 frozen": frozen(trained),
        "residual net of 1.2 M weights": like_nrp,
    }
    contenders = {name: _calls(lambda n=network: n(x)) for name, network in networks.items()}
    contenders["purify 6 s"] = _calls(lambda: purifier.purify(sound, 16_000))
    contenders["purify a window"] = _calls(lambda: purifier.purify(window, 16_000))
    times = race(contenders, rounds=given.rounds)
    rates = measure_rates()
    with torch.no_grad():  # in inference mode the counter sees no operation
        x = x.clone()
        works = {name: work_of(lambda n=network: n(x)) for name, network in networks.items()}
    rows = _rows(times, works, rates, len(sound) / RATE, len(window) / RATE)
    write(
        "purifier_latency",
        rows,
        times=times,
        rates=[rates],
        folder=given.results,
        calls_a_round=CALLS,
        operations={name: work.operations for name, work in works.items()},
        weights={name: sum(p.numel() for p in n.parameters()) for name, n in networks.items()},
    )
    return 0 if all(row.met is not False for row in rows) else 1


def _calls(run: Callable[[], object]) -> Callable[[], None]:
    @torch.inference_mode()
    def repeated() -> None:
        for _ in range(CALLS):
            run()

    return repeated


def _rows(
    times: Mapping[str, Times],
    works: Mapping[str, Work],
    rates: Rates,
    seconds: float,
    window_seconds: float,
) -> list[Row]:
    took = {name: each.seconds.median / CALLS for name, each in times.items()}
    floor = floor_told(works["purifier"], rates, took["purifier"])
    least = works["purifier"].operations / works["VGG-16 frozen"].operations
    rows = []
    for name in ("VGG-16 as trained", "VGG-16 frozen"):
        share = took["purifier"] / took[name]
        rows.append(
            Row(
                what=f"purifier, log-Mel of 6 s, one thread ({1e3 * took['purifier']:.2f} ms)",
                against=f"{name}, width 64 ({1e3 * took[name]:.1f} ms)",
                target=f"≤ {100 * LARGEST_SHARE:g} %",
                measured=f"{100 * share:.1f} %",
                met=share <= LARGEST_SHARE,
                floor=f"{100 * least:.1f} % of its operations",
            )
        )
    name = "residual net of 1.2 M weights"
    rows.append(
        Row(
            what="purifier, log-Mel of 6 s, one thread",
            against=f"{name}, the size of NRP's ResG ({1e3 * took[name]:.0f} ms)",
            target="faster",
            measured=f"{ratio(times[name], times['purifier'])}",
            met=took["purifier"] < took[name],
            floor=floor,
        )
    )
    for name, what, length in (
        ("purify 6 s", "sound to sound, 6 s (two windows)", seconds),
        ("purify a window", f"sound to sound, {window_seconds:.2f} s (one window)", window_seconds),
    ):
        factor = took[name] / length
        rows.append(
            Row(
                what=f"{what}, one thread ({1e3 * took[name]:.1f} ms)",
                against="the time it plays",
                target=f"real-time factor ≤ {LARGEST_FACTOR:g}",
                measured=f"{factor:.4f}",
                met=factor <= LARGEST_FACTOR,
                floor=f"network alone: {floor}",
            )
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
