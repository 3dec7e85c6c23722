"""The filter of `NoiseWiener` beside a speech encoder, and three ways to compute its recursion.

    python benchmarks/noise_wiener.py ../shared/models/whisper-tiny-en

Prints CPU seconds of the stream without torch for each second of sound, then CPU milliseconds
forwards and backwards on one thread (least of so many rounds) for 3.7 s of sound, and how far
fixed-point iterations over all frames at once lie from the recursion. Without an encoder the stream
alone is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import process_time

import numpy as np
import torch
from torch import Tensor

from servax import runtime
from servax.defences import NoiseWiener
from servax.defences.noise_wiener import DecisionDirected
from servax.models import open_encoder
from servax.runtime.noise_wiener import FLOOR, SMOOTHING

ROUNDS = 5
SAMPLES, FRAMES, BINS = 59_200, 466, 257


def by_autograd(post: Tensor) -> Tensor:
    """Return the gains (B, F, bins) of the recursion, followed by autograd."""
    gains = []
    before: float | Tensor = SMOOTHING
    for one in post.unbind(1):
        prior = before + (1.0 - SMOOTHING) * (one - 1.0).clamp(min=0.0)
        gains.append((prior / (prior + 1.0)).clamp(min=FLOOR))
        before = SMOOTHING * gains[-1].square() * one
    return torch.stack(gains, dim=1)


def by_iterations(post: Tensor, times: int = 40) -> Tensor:
    """Return the gains (B, F, bins) after fixed-point iterations from 1."""
    new = (1.0 - SMOOTHING) * (post - 1.0).clamp(min=0.0)
    gain = torch.ones_like(post)
    for _ in range(times):
        first, later = new[:, :1] + SMOOTHING, SMOOTHING * gain[:, :-1].square() * post[:, :-1]
        prior = torch.cat([first, new[:, 1:] + later], dim=1)
        gain = (prior / (prior + 1.0)).clamp(min=FLOOR)
    return gain


def milliseconds(work: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, float]:
    """Return CPU time forwards and backwards."""
    times = []
    for _ in range(ROUNDS):
        given = x.clone().requires_grad_()
        began = process_time()
        found = work(given)
        between = process_time()
        found.sum().backward()
        times.append((between - began, process_time() - between))
    return tuple(1e3 * min(each) for each in zip(*times, strict=True))


def real_time_factor(rate: int, chunk: int, seconds: int = 10) -> float:
    """Return CPU seconds of a stream for each second of sound that comes in chunks."""
    x = 0.05 * np.random.default_rng(0).standard_normal(seconds * rate, dtype=np.float32)
    times = []
    for _ in range(ROUNDS):
        stream, began = runtime.NoiseWiener(20.0).stream(rate, level_dbfs=-26.0), process_time()
        for start in range(0, len(x), chunk):
            stream.feed(x[start : start + chunk])
        stream.finish()
        times.append((process_time() - began) / seconds)
    return min(times)


def main() -> None:
    """Measure all of them, in batches of one and of eight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", nargs="?")
    place = parser.parse_args().encoder
    for rate in (16_000, 44_100, 48_000):
        parts = [real_time_factor(rate, chunk) for chunk in (rate // 50, rate // 5, 10 * rate)]
        told = ", ".join(f"{part:.4f}" for part in parts)
        print(f"{rate} Hz in chunks of 20 ms, of 200 ms, at once: {told}", flush=True)
    if place:
        compare(place)


def compare(place: str) -> None:
    """Compare filter, encoder and three ways to the gains."""
    encoder = open_encoder(place)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    defence = NoiseWiener(20.0, generator)
    for batch in (1, 8):
        sound = 0.05 * torch.randn(batch, SAMPLES, generator=generator)
        post = 3.0 * torch.randn(batch, FRAMES, BINS, generator=generator).square()
        for name, work, x in (
            ("encoder", encoder, sound),
            ("noise and filter", defence, sound),
            ("recursion", DecisionDirected.apply, post),
            ("autograd over the loop", by_autograd, post),
            ("40 iterations over all frames", by_iterations, post),
        ):
            forwards, backwards = milliseconds(work, x)
            print(f"batch {batch}: {name:<30} {forwards:8.1f} {backwards:8.1f}", flush=True)
    exact = DecisionDirected.apply(post)
    for times in (10, 20, 40):
        apart = float((by_iterations(post, times) - exact).abs().max())
        print(f"{times} iterations lie at most {apart:.1e} from the recursion")


if __name__ == "__main__":
    main()
