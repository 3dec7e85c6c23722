"""What may be handed in as sound, and the form in which it comes back.

One rule for all forms: time is the last axis, whole numbers have the full scale of their type, the
rate is stated or said by the sound itself, and what comes back is what was handed in, purified.
Inside, samples are float32 with full scale at 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servax.errors import SettingError, ShapeError
from servax.kinds import check_number

Samples = NDArray[np.float32]
Clean = Callable[[Samples, int], Samples]
"""From one sound (T,) and its rate in Hz to the purified one (T,)."""
Read = Callable[[str | Path | bytes], tuple[Samples, int]]
"""From a file, or the bytes of one, to samples (channels, T) and their rate in Hz."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Rates of sound in Hz."""
SHORTEST_SECONDS = 0.05
LOUDEST = 65_536.0
"""Largest sample: floats that were scaled as 16-bit integers, a common slip, still pass, and
squares do not overflow."""
STEP_16_BIT = 2.0**-15
"""Distance of two neighbouring samples of 16 bits: k / 32768 for k in [-32768, 32767]."""
FULL_SCALES = {"uint8": (2**7, 2**7), "int16": (2**15, 0), "int32": (2**31, 0)}
"""What is 1 and what is silence, in the whole numbers that sound comes in (WAV)."""


def in_kind(given: Any, sample_rate: int | None, clean: Clean, read: Read) -> Any:
    """Return purified sound in the form of `given`; sounds in a list, channels are cleaned alone.

    Args:
        given: Samples (T,) or (..., T); a file; what `datasets.Audio` or a pipeline of
            transformers calls a sound; or a list of such.
        sample_rate: In Hz; may be left out where the sound says it.
        clean: Purifies one sound.
        read: Reads a file.

    Raises:
        ShapeError: It is not (..., T), or too short.
        SettingError: It is no sound, a sample is not finite, or no rate, two rates or one outside
            its rule are stated.
    """
    if isinstance(given, list | tuple) and len(given) and not _is_number(given[0]):
        return [in_kind(each, sample_rate, clean, read) for each in given]
    given = decoded(given)
    samples, rate = heard(given, sample_rate, read)
    rows = samples.reshape(-1, samples.shape[-1])
    cleaned = np.stack([clean(row, rate) for row in rows]).reshape(samples.shape)
    alone = cleaned[0] if len(cleaned) == 1 else cleaned
    if as_file(given) is not None:
        return alone
    if not isinstance(given, Mapping):
        return _like(given, cleaned)
    key = _key(given)
    of_file = key not in ("raw", "array")
    done = {"array": alone} if of_file else {key: _like(given[key], cleaned)}
    # It names no file that still holds the other sound.
    no_file = {name: None for name in ("path", "bytes") if name in given}
    return {**given, **no_file, **done, "sampling_rate": rate}


def heard(given: Any, sample_rate: int | None, read: Read) -> tuple[Samples, int]:
    """Return the samples (..., T) of one sound, float32, and its rate in Hz; as `in_kind`."""
    given = decoded(given)
    file = as_file(given)
    if file is not None:
        samples, own = read(file)
        sample_rate = _agreed(sample_rate, own)
    elif isinstance(given, Mapping):
        stated = _agreed(sample_rate, given.get("sampling_rate"))
        return heard(given[_key(given)], stated, read)
    elif hasattr(given, "read"):
        expected = "samples, a path, or the bytes of a file, which its .read() gives"
        raise SettingError("the type of waveform", type(given).__name__, expected)
    else:
        samples = as_samples("waveform", given)
    if sample_rate is None:
        raise SettingError("sample_rate", None, "the rate of the samples in Hz: they do not say it")
    check_rate(sample_rate)
    shortest = fewest_samples(sample_rate)
    sounds = int(np.prod(samples.shape[:-1])) if samples.ndim else 0
    if not sounds or samples.shape[-1] < shortest or sounds > samples.shape[-1]:
        raise ShapeError(
            "waveform",
            samples.shape,
            f"(T,) mono samples with T >= {shortest}, or (channels, T) or (B, T): time is the "
            "last axis, so transpose (T, channels)",
        )
    check_samples("waveform", samples)
    return samples, int(sample_rate)


def as_file(given: Any) -> str | Path | bytes | None:
    """Return the path or the bytes of a file where one is given; else None."""
    view = isinstance(given, memoryview) and isinstance(given.obj, bytes | bytearray)
    if view or isinstance(given, bytearray):
        return bytes(given)
    if isinstance(given, os.PathLike):
        return Path(os.fsdecode(given))
    return given if isinstance(given, str | bytes) else None


def decoded(given: Any) -> Any:
    """Return what a decoder of torchcodec gives as a mapping; all else as it is."""
    if not hasattr(given, "get_all_samples"):
        return given
    found = given.get_all_samples()
    return {"array": found.data, "sampling_rate": int(found.sample_rate)}


def _is_number(given: Any) -> bool:
    """Say whether it is one number: of Python, or an array or a tensor without axes."""
    if isinstance(given, str | bytes):  # NumPy's have no axes either
        return False
    return isinstance(given, Real) or getattr(given, "ndim", None) == 0


def _key(sound: Mapping[str, Any]) -> str:
    """Return under which key a mapping holds its sound: samples go before files."""
    for key in ("raw", "array", "bytes", "path"):
        if sound.get(key) is not None:
            return key
    expected = "'array' or 'raw' with 'sampling_rate', or 'path' or 'bytes'"
    raise SettingError("the keys of the sound", sorted(map(str, sound)), expected)


def _agreed(stated: int | None, own: int | None) -> int | None:
    """Return the rate that is stated, or that a sound says itself; they must not differ."""
    if None not in (stated, own) and stated != own:
        raise SettingError(
            "sample_rate", stated, f"{own} Hz, as the sound itself says, or to be left out"
        )
    return stated if own is None else own


def _like(given: Any, cleaned: Samples) -> Any:
    """Return samples in the form and type of `given`; whole numbers are rounded to their scale."""
    dtype = getattr(given, "dtype", None)
    result: NDArray[Any] = cleaned
    if (name := _type_name(dtype)) in FULL_SCALES:
        one, silence = FULL_SCALES[name]
        whole = np.rint(cleaned.astype(np.float64) * one + silence)
        result = whole.clip(silence - one, silence + one - 1).astype(name)
    if hasattr(given, "new_tensor"):
        return given.resolve_neg().new_tensor(result)
    return result.astype(dtype) if isinstance(given, np.ndarray) else result


def _type_name(dtype: Any) -> str:
    """Return what NumPy calls a type of NumPy or torch; its text would name an order of bytes."""
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def as_samples(name: str, given: Any) -> Samples:
    """Return samples of any shape and type as float32, full scale at 1; a tensor comes to the CPU.

    Raises:
        SettingError: They are no numbers, or whole numbers of a type that has no full scale.
    """
    each_one = isinstance(given, list | tuple)
    fetched = [_fetched(name, each) for each in given] if each_one else _fetched(name, given)
    try:
        array = np.asarray(fetched)
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray(None)
    if (kind := _type_name(array.dtype)) in FULL_SCALES:
        one, silence = FULL_SCALES[kind]
        return ((array.astype(np.float64) - silence) / one).astype(np.float32)
    if array.dtype.kind != "f":
        kind = type(given).__name__ if array.dtype == object else str(array.dtype)
        *others, last = FULL_SCALES
        expected = f"floating-point samples with full scale at 1, or {', '.join(others)} or {last}"
        raise SettingError(f"the type of {name}", kind, expected)
    with np.errstate(over="ignore"):  # infinity is refused where samples are checked
        return array.astype(np.float32, copy=False)


def _fetched(name: str, given: Any) -> Any:
    """Return the array of a tensor, wherever it is; what is no tensor stays as it is."""
    if not hasattr(given, "detach"):
        return given
    try:
        tensor = given.detach().cpu().resolve_conj().resolve_neg()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise SettingError(
            f"the type of {name}",
            f"{getattr(given, 'layout', type(given).__name__)} on {getattr(given, 'device', '?')}",
            "a dense tensor that holds its values, as .to_dense() gives of a sparse one",
        ) from error


def check_rate(sample_rate: int) -> None:
    """Refuse a rate that no sound has.

    Raises:
        SettingError: `sample_rate` is outside its rule.
    """
    check_number("sample_rate", sample_rate)
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE or sample_rate % 1:
        raise SettingError(
            "sample_rate", sample_rate, f"a rate in [{LOWEST_RATE}, {HIGHEST_RATE}] Hz"
        )


def fewest_samples(sample_rate: int) -> int:
    """Return how many samples at a rate a sound has at least."""
    return int(np.ceil(SHORTEST_SECONDS * sample_rate))


def check_samples(name: str, samples: Samples) -> None:
    """Refuse samples (T,) of which some are no sound.

    Raises:
        SettingError: A sample is not finite, or beyond `LOUDEST`.
    """
    if not np.isfinite(samples).all():
        raise SettingError(name, "not finite", "samples without NaN or infinity")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > LOUDEST:
        raise SettingError(
            f"the loudest sample of {name}", peak, f"at most {LOUDEST:g}; full scale is 1"
        )
