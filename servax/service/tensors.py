"""The inference protocol of KServe and Triton (v2, JSON): a tensor of samples in, tensors out.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol. A request has
one input, FP32 of shape [channels, T], or [T] for one channel, whose ``sample_rate`` in Hz is a
parameter of it or of the request. Workers read it, and what they read passes what a sound file
passes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servax.audio import encoded
from servax.runtime.samples import HIGHEST_RATE, LOWEST_RATE
from servax.service.decoding import REFUSED, Decoded, decode
from servax.service.middleware import SAFE_ID
from servax.service.purifying import Purifying
from servax.service.responses import Classification, Refusal
from servax.service.settings import ServiceSettings

MOST_VALUES, MOST_LISTS = 2**21, 64
"""In one body: each becomes an object of its own before it is a sample."""
Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Type and shape by name; -1 is any length."""
SOUND: Tensors = {"samples": ("FP32", (-1, -1))}  # (channels, T)
OUTPUTS: dict[str, Tensors] = {
    "purify": SOUND,
    "classify": {
        "labels": ("BYTES", (-1,)),
        "probabilities": ("FP32", (-1,)),
        "undefended": ("FP32", (-1,)),
    },
}
"""What each model gives."""


@dataclass(frozen=True)
class Tensor(Decoded):
    """The sound that a request held."""

    request: str
    """What the client calls it."""

    @property
    def facts(self) -> dict[str, float | str]:
        """What may be logged of it."""
        return super().facts | {"infer_id": self.request}


def metadata(model: str) -> dict[str, Any]:
    """Return what the protocol tells of a model."""
    inputs, outputs = (
        [{"name": name, "datatype": of, "shape": [*shape]} for name, (of, shape) in each.items()]
        for each in (SOUND, OUTPUTS[model])
    )
    return {"name": model, "platform": "servax", "inputs": inputs, "outputs": outputs}


def from_tensor(body: bytes, settings: ServiceSettings) -> Tensor:
    """Return the sound in a request.

    Raises:
        Refusal: It is none; or as of `decode`.
    """
    try:
        if body.count(b",") > MOST_VALUES or body.count(b"[") + body.count(b"{") > MOST_LISTS:
            raise ValueError
        given = json.loads(body)
        (tensor,) = given["inputs"]
        told = {**given.get("parameters", {}), **tensor.get("parameters", {})}
        rate, request = told["sample_rate"], given.get("id", "")
        *leading, frames = tensor["shape"]
        (channels,) = leading or (1,)  # a batch of several sounds has more
        if (
            tensor["datatype"] != "FP32"
            or {type(rate), type(channels), type(frames)} != {int}
            or not (0 < channels <= MOST_LISTS and frames > 0)
            or not isinstance(request, str)
            or not SAFE_ID.fullmatch((request or "x").encode())
        ):
            raise ValueError
        with np.errstate(over="ignore"):  # infinity is refused as it is in a file
            samples = _numbers(tensor["data"]).reshape(channels, frames).astype(np.float32)
    except (
        *(ValueError, LookupError, TypeError, AttributeError),
        *(RecursionError, OverflowError, MemoryError),
    ):
        raise Refusal(
            422,
            "bad_tensor",
            f"The body is no such request, or holds more than {MOST_VALUES} values; expected one "
            'input of datatype "FP32" and shape [T] or [channels, T], its "data", and a whole '
            '"sample_rate" among its "parameters"; send each sound of a batch alone.',
        ) from None
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise Refusal(422, *REFUSED["rate"])
    sound = decode(encoded(samples.T, rate, "WAV", "FLOAT"), replace(settings, max_bytes=2**30))
    return Tensor(sound.samples, sound.rate, "tensor", request)


def purify_tensors(models: Purifying, sounds: list[Decoded]) -> list[str]:
    """Return the output of each sound as JSON: it is long, and the server has others to serve."""
    # 7 decimals are finer than 24 bits.
    made = [models.samples(each)[0].astype(np.float64).round(7).T for each in sounds]
    return [_output("purify", samples) for samples in made]


def classified(found: Classification) -> str:
    """Return the outputs that tell of a sound that was classified, as JSON."""
    both = (list(each.probabilities.values()) for each in (found.after, found.before))
    return _output("classify", np.array(list(found.after.probabilities)), *map(np.array, both))


def answer(model: str, request: str, outputs: str) -> str:
    """Return an answer of the protocol, as JSON."""
    head = json.dumps({"model_name": model, **({"id": request} if request else {})})
    return f'{head[:-1]}, "outputs": {outputs}}}'


def _numbers(data: Any) -> NDArray[np.float64]:
    """Return the numbers of a list, or of a list of lists.

    Each is looked at before: one long text makes an array of texts as wide as itself.
    """
    rows = data if isinstance(data[0], list) else [data]
    if not {type(value) for row in rows for value in row} <= {int, float}:
        raise TypeError
    return np.asarray(data, np.float64)


def _output(model: str, *values: Any) -> str:
    named = zip(OUTPUTS[model].items(), values, strict=True)
    return json.dumps(
        [
            {"name": name, "datatype": of, "shape": list(v.shape), "data": v.ravel().tolist()}
            for (name, (of, _)), v in named
        ]
    )
