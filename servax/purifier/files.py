"""One file into another: the guard around every one, and purification in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from servax import audio
from servax.errors import AudioError, PathError, SettingError, ShapeError, unwritable
from servax.files import expanded, write_whole
from servax.pretrained import resolve
from servax.purifier.folders import same_file
from servax.purifier.plans import ITSELF, LOGMEL, FileJob, Outcome
from servax.runtime.host import load_extra
from servax.runtime.limiter import Limited
from servax.runtime.noise_wiener import NoiseWiener
from servax.runtime.purifier import Purifier as ExportedPurifier
from servax.runtime.samples import SHORTEST_SECONDS
from servax.runtime.stream import ALL, Mixture, SoundCleaner

BLOCK_SECONDS = 30.0
EXPORTED = "purifier.onnx"
"""What a folder calls its purifier as ``servax export`` writes it."""
BEYOND_FULL_SCALE = (
    *audio.FLOATS,
    *("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"),
)
"""Encodings whose samples may lie beyond full scale."""
KEPT = {
    **dict.fromkeys(("PCM_24", "PCM_32", "ALAC_20", "ALAC_24", "ALAC_32"), "PCM_24"),
    **dict.fromkeys(audio.FLOATS, "FLOAT"),
}
"""How samples of a source are written; all others with 16 bits."""
SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}


def cleaner_of(
    purifier: str, *, light: bool = False, mixture: Mixture = ALL, device: str = "cpu"
) -> SoundCleaner:
    """Return what purifies sound: a network by torch, or what ``servax export`` wrote without it.

    Args:
        purifier: Folder, name of a packaged one, or hub id; an ONNX file; or ``noise-wiener:20``,
            noise of so many dB and the filter that knows it.
        light: Take the exported file of a folder that holds both. It is taken too where torch is
            not installed.
        mixture: How much of the change is let through.
        device: Where torch computes; as of `Compute`. What needs no torch is on the CPU.

    Raises:
        SettingError: There is no such device, or an ONNX file should run on it.
        ServaxError: It cannot be read, or onnxruntime or torch is not installed.
    """
    on_cpu = device in ("auto", "cpu")
    if NoiseWiener.is_named(purifier):
        if mixture != ALL or not on_cpu:
            raise SettingError("purifier", purifier, "one without --mix, --limit-db and --device")
        return NoiseWiener.named(purifier)
    file = exported_of(purifier)
    if file is not None and (light or file == expanded(purifier) or find_spec("torch") is None):
        if not on_cpu:
            raise SettingError("device", device, "cpu or auto: there an ONNX file runs")
        return ExportedPurifier.load(file, threads=1).mixed(mixture)
    load_extra("torch", what=f"the purifier {purifier}, which is no ONNX file,")
    from servax.purifier.purifier import Purifier
    from servax.training import Compute

    place = Compute(device=device).resolve() if device != "cpu" else device
    return Purifier.from_pretrained(purifier).frozen().mixed(mixture).to(place)


def needs_torch(purifier: str) -> bool:
    """Say whether `cleaner_of` cannot do without torch."""
    return exported_of(purifier) is None and not NoiseWiener.is_named(purifier)


def exported_of(purifier: str) -> Path | None:
    """Return the ONNX file that a purifier is or has in its folder, or none."""
    path = resolve(purifier)
    if path.suffix == Path(EXPORTED).suffix:
        return path
    return path / EXPORTED if (path / EXPORTED).is_file() else None


def carry_out(
    job: FileJob, work: Callable[[FileJob], Outcome], *, overwrite: bool = False
) -> Outcome:
    """Do what a job says; whatever is wrong with its files is told, never raised.

    Args:
        job: What becomes what.
        work: Makes the target of the source, whole or not at all.
        overwrite: Replace a target that is there.
    """
    source, target = Path(job.source), Path(job.target)
    try:
        if same_file(source, target):
            raise PathError(target, ITSELF)
        if not _is_free(target, overwrite=overwrite):
            return Outcome(job.source, job.target, "skipped")
        return work(job)
    except PathError as error:
        said = str(error)
    except Exception as error:  # nothing about one file may end the others
        said = str(PathError(source, str(error) or type(error).__name__))
    return Outcome(job.source, job.target, "failed", sentence=said)


def _is_free(target: Path, *, overwrite: bool) -> bool:
    """Tell whether a target may be written, its folder made; false where it is there already."""
    try:
        if target.is_dir() or (target.exists() and not target.is_file()):
            raise PathError(target, "is there, and is no file that could be replaced; move it")
        target.parent.mkdir(parents=True, exist_ok=True)
        return overwrite or not target.exists()
    except (OSError, ValueError) as error:
        raise PathError(target, unwritable(error)) from None


def purify_file(purifier: SoundCleaner, job: FileJob, *, overwrite: bool = False) -> Outcome:
    """Purify what a job says; whatever is wrong with its files is told, never raised.

    Each channel is purified on its own. The target appears whole or not at all.

    Args:
        purifier: In evaluation mode, on the CPU.
        job: What becomes what.
        overwrite: Replace a target that is there.
    """
    return carry_out(job, work_of(purifier, job), overwrite=overwrite)


def work_of(purifier: SoundCleaner, job: FileJob) -> Callable[[FileJob], Outcome]:
    """Return what `carry_out` does for a sound or for a log-Mel."""
    logmel = Path(job.source).suffix.lower() == LOGMEL
    return partial(_purify_logmel if logmel else _purify_sound, purifier)


def _purify_sound(purifier: SoundCleaner, job: FileJob) -> Outcome:
    source, target = Path(job.source), Path(job.target)
    subtype = _subtype(job, source, audio.WRITABLE[target.suffix.lower()])
    with audio.opened(source) as sound:
        rate, channels = int(sound.samplerate), int(sound.channels)
        first, last = audio.stretch(sound, source, job.start, job.end)
        streams = [purifier.whole_stream(rate) for _ in range(channels)]
        heard, size = 0, round(BLOCK_SECONDS * rate)
        end = np.zeros((0, channels), dtype=np.float32)
        with audio.created(target, rate, channels, subtype=subtype) as file:
            every = audio.blocks(sound, source, first=first, last=last, size=size)
            for block in chain(every, [end]):
                heard += len(block)
                if block is end and heard < SHORTEST_SECONDS * rate:
                    expected = f"expected at least {SHORTEST_SECONDS} s"
                    raise AudioError(source, f"is {heard / rate:.3f} s long, {expected}")
                ready = []
                for i, stream in enumerate(streams):
                    ready.append(stream.feed(block[:, i], last=block is end))
                file.write(audio.as_written(np.stack(ready, axis=1), subtype))
    limited = Limited.together(stream.limited for stream in streams)
    return Outcome(
        job.source,
        job.target,
        "done",
        heard / rate,
        limited_samples=limited.samples,
        limited_db=limited.decibels,
        subtype=subtype,
    )


def _subtype(job: FileJob, source: Path, container: str) -> str:
    """Return how the purified sound of a job is written; that depends on the loudest sample.

    Raises:
        AudioError: The container holds no floats, and they are needed.
    """
    floats = soundfile.check_format(container, "FLOAT")
    with audio.opened(source) as sound:
        wanted = SUBTYPES.get(job.format) or KEPT.get(sound.subtype, "PCM_16")
        if wanted == "FLOAT" and floats:
            return wanted
        if sound.subtype in BEYOND_FULL_SCALE:
            first, last = audio.stretch(sound, source, job.start, job.end)
            size = round(BLOCK_SECONDS * sound.samplerate)
            found = audio.blocks(sound, source, first=first, last=last, size=size)
            peak = max(float(np.abs(block).max()) for block in found)
            if audio.subtype_of(peak) == "FLOAT":
                if floats:
                    return "FLOAT"
                reason = f"goes beyond full scale, which {container} cannot hold"
                raise AudioError(source, f"{reason}; write a .wav, or scale it", cause="too_loud")
    if job.format == "float":
        raise AudioError(source, f"cannot become floats in {container}; write a .wav")
    return "PCM_24" if wanted == "FLOAT" else wanted


def _purify_logmel(purifier: SoundCleaner, job: FileJob) -> Outcome:
    import torch

    from servax.purifier.purifier import Purifier, device_of

    source = Path(job.source)
    if not isinstance(purifier, Purifier):
        raise PathError(source, "is a log-Mel, and this purifier takes sound alone")
    if purifier.mixture != ALL or job.format != FileJob.format:
        raise PathError(source, "is a log-Mel; --mix, --limit-db and --format are of sound alone")
    try:
        with audio.regular(source) as file:
            x = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PathError(source, f"is no array that numpy.save wrote ({error})") from None
    mels = purifier.front_end.logmel.mels
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[0] != mels or x.shape[1] < 1:
        raise ShapeError("log-Mel", np.shape(x), f"({mels}, F)")
    if x.dtype.kind != "f" or not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise SettingError("log-Mel", "outside", "finite numbers in [0, 1], the purifier's scale")
    with torch.inference_mode():
        given = torch.from_numpy(x.astype(np.float32))[None, None]
        purified = purifier(given.to(device_of(purifier))).cpu()
    write_array(Path(job.target), purified[0, 0].numpy())
    return Outcome(job.source, job.target, "done")


def write_array(target: Path, array: NDArray[np.float32]) -> None:
    """Write an array as ``.npy``, whole or not at all.

    Raises:
        PathError: It cannot be written.
    """
    content = io.BytesIO()  # into a file, NumPy would hide what the system says of a full disk
    np.save(content, array, allow_pickle=False)
    write_whole(target, content.getvalue())
