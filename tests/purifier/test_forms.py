"""What is handed in as sound comes back purified, in its form; each is the plain case reworded."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from servax import runtime
from servax.errors import AudioError, SettingError, ShapeError
from servax.features import FrontEndSettings, Scale, ScaleSettings
from servax.purifier import Purifier, SoundPurifier, SoundStream

RATE = 16_000


class Draw(nn.Module):
    """Changes what it hears by up to .1, differently for all it can hear."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.sin(40.0 * x.mean(dim=-1, keepdim=True))


def cleaner() -> Purifier:
    return Purifier(Draw(), Scale(ScaleSettings(top_db=40.0)), FrontEndSettings()).eval()


def voice(seconds: float = 0.5, rate: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(seed).normal(0, 0.2, len(time))
    return (0.05 * (tone + noise)).astype(np.float32)


PLAIN = voice()
EXPECTED = cleaner().purify(PLAIN, RATE)
STEREO = np.stack([PLAIN, voice(seed=1)])
EXPECTED_STEREO = np.stack([cleaner().purify(row, RATE) for row in STEREO])


def test_the_rate_has_no_default() -> None:
    purifier = cleaner()
    sentence = "sample_rate is None, expected the rate of the samples in Hz"
    for sound in (PLAIN, torch.from_numpy(PLAIN), [PLAIN], {"array": PLAIN}):
        with pytest.raises(SettingError, match=sentence):
            purifier.purify(sound)
    for call in (Purifier.stream, SoundStream, runtime.Purifier.stream, SoundPurifier):
        assert inspect.signature(call).parameters["sample_rate"].default is inspect.Parameter.empty
    with pytest.raises(SettingError, match="expected the rate of the samples in Hz"):
        runtime.Purifier.purify(_light(), PLAIN)


def _light() -> runtime.Purifier:
    """Return a purifier without a session, of which nothing but the refusals is asked."""
    return object.__new__(runtime.Purifier)


@pytest.mark.parametrize("sample_rate", ["16k", None, [16_000], True, 16_000.5, float("nan"), -1])
def test_a_rate_that_is_none_is_refused(sample_rate: Any) -> None:
    for call in (cleaner().purify, _light().purify):
        with pytest.raises(SettingError, match="sample_rate is"):
            call(PLAIN, sample_rate)
    with pytest.raises(SettingError, match="sample_rate is"):
        cleaner().stream(sample_rate)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_an_array_comes_back_in_its_type(dtype: type) -> None:
    cleaned = cleaner().purify(PLAIN.astype(dtype), RATE)
    assert cleaned.dtype == dtype
    np.testing.assert_allclose(cleaned.astype(np.float64), EXPECTED, atol=2e-3)


@pytest.mark.parametrize(
    ("dtype", "subtype"), [(np.uint8, "PCM_U8"), (np.int16, "PCM_16"), (np.int32, "PCM_32")]
)
def test_whole_numbers_have_the_full_scale_that_libsndfile_gives_them(
    dtype: type, subtype: str
) -> None:
    file = io.BytesIO()
    soundfile.write(file, PLAIN, RATE, format="WAV", subtype=subtype)
    if dtype is np.uint8:  # soundfile does not read these; they stand behind a header of 44 bytes
        whole = np.frombuffer(file.getvalue()[-len(PLAIN) :], np.uint8)
    else:
        whole = soundfile.read(io.BytesIO(file.getvalue()), dtype=np.dtype(dtype).name)[0]
    for given in (whole.copy(), torch.from_numpy(whole.copy())):
        cleaned = cleaner().purify(given, RATE)
        assert cleaned.dtype == given.dtype
        made = io.BytesIO()
        soundfile.write(made, EXPECTED, RATE, format="WAV", subtype=subtype)
        levels = (np.asarray(cleaned).astype(float) - 128 * (dtype is np.uint8)) / float(
            {np.uint8: 2**7, np.int16: 2**15, np.int32: 2**31}[dtype]
        )
        np.testing.assert_allclose(levels, EXPECTED, atol=4e-2 if dtype is np.uint8 else 1e-3)


def test_a_stream_takes_whole_numbers_too() -> None:
    whole = (PLAIN * 2**15).astype(np.int16)
    streams = [cleaner().stream(RATE) for _ in range(2)]
    found = [
        np.concatenate([stream.feed(chunk), stream.finish()])
        for stream, chunk in zip(streams, (whole, whole / np.float32(2**15)), strict=True)
    ]
    np.testing.assert_array_equal(*found)
    with pytest.raises(SettingError, match="the type of chunk is"):
        cleaner().stream(RATE).feed(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_tensor_comes_back_in_its_type_and_without_a_gradient(dtype: torch.dtype) -> None:
    given = torch.from_numpy(PLAIN).to(dtype).requires_grad_()
    cleaned = cleaner().purify(given, RATE)
    assert isinstance(cleaned, Tensor)
    assert (cleaned.dtype, cleaned.device, cleaned.requires_grad) == (dtype, given.device, False)
    np.testing.assert_allclose(cleaned.float().numpy(), EXPECTED, atol=2e-2)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU: NumPy must not be asked for it before it was fetched."""

    fetched = False

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        Elsewhere.fetched = True
        return self.as_subclass(Tensor)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_a_tensor_of_another_device_is_fetched_first() -> None:
    given = torch.from_numpy(PLAIN).as_subclass(Elsewhere)
    cleaned = cleaner().purify(given, RATE)
    assert Elsewhere.fetched
    np.testing.assert_array_equal(cleaned.as_subclass(Tensor).numpy(), EXPECTED)


class Held(Draw):
    """Has a weight, so that it has a device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight


def elsewhere() -> Purifier:
    """Return a purifier on the device `meta`, which computes nothing but refuses what is not there.

    It stands for a GPU: an operation of its tensors and those of the CPU is an error too.
    """
    return Purifier(Held(), Scale(ScaleSettings(top_db=40.0))).eval().to("meta")


@pytest.mark.parametrize("seconds", [0.5, 8.0])
def test_sound_is_purified_where_the_weights_are(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Tensor] = []

    def cpu(tensor: Tensor) -> Tensor:
        fetched.append(tensor)
        return torch.zeros(tensor.shape)  # meta holds no values that could be brought back

    monkeypatch.setattr(Tensor, "cpu", cpu)
    sound = voice(seconds)
    for rate in (RATE, 44_100):
        fetched.clear()
        np.testing.assert_allclose(elsewhere().purify(sound, rate), sound, atol=1e-6)
        assert any(tensor.is_meta for tensor in fetched)


@pytest.mark.parametrize("seconds", [0.5, 8.0])
def test_gradients_pass_where_the_weights_are(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tensor without values cannot tell whether it is within range: the limiter works then.
    monkeypatch.setattr(SoundPurifier, "_all_within", staticmethod(lambda needs: False))
    sound = torch.from_numpy(voice(seconds))[None].to("meta")
    for module in (SoundPurifier(elsewhere(), RATE), SoundPurifier(cleaner(), RATE).to("meta")):
        assert module(sound).is_meta


@pytest.mark.parametrize(
    "form",
    [
        lambda x: (PLAIN.astype(">f4"), np.dtype(">f4")),
        lambda x: (np.round(x * 2**15).astype(">i2"), np.dtype(">i2")),
        lambda x: (np.round(x * 2.0**31).astype(">i4"), np.dtype(">i4")),
    ],
)
def test_the_order_of_bytes_is_kept_and_changes_nothing(form: Callable[..., Any]) -> None:
    given, dtype = form(PLAIN)
    cleaned = cleaner().purify(given, RATE)
    assert cleaned.dtype == dtype
    native = cleaner().purify(given.astype(dtype.newbyteorder("=")), RATE)
    np.testing.assert_array_equal(cleaned, native)


def test_a_view_of_the_negative_is_what_it_shows() -> None:
    conjugate = torch.complex(torch.zeros(len(PLAIN)), torch.from_numpy(-PLAIN)).conj()
    assert conjugate.imag.is_neg()
    np.testing.assert_array_equal(cleaner().purify(conjugate.imag, RATE).numpy(), EXPECTED)


@pytest.mark.parametrize("form", [list, tuple])
def test_numbers_without_axes_are_numbers(form: Callable[[Any], Any]) -> None:
    tensor = torch.from_numpy(PLAIN).requires_grad_()
    for each in (form(tensor), form(np.asarray(number) for number in PLAIN), form(PLAIN)):
        cleaned = cleaner().purify(each, RATE)
        assert isinstance(cleaned, np.ndarray)
        np.testing.assert_array_equal(cleaned, EXPECTED)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_type_purify_the_same_sound(dtype: torch.dtype) -> None:
    purifier = Purifier(Held(), Scale(ScaleSettings(top_db=40.0))).eval()
    expected = purifier.purify(PLAIN, RATE)
    np.testing.assert_allclose(purifier.to(dtype).purify(PLAIN, RATE), expected, atol=5e-3)


def test_channels_and_batches_are_purified_one_by_one() -> None:
    purifier = cleaner()
    np.testing.assert_array_equal(purifier.purify(STEREO, RATE), EXPECTED_STEREO)
    batch = np.stack([STEREO, STEREO[::-1]])
    expected = np.stack([EXPECTED_STEREO, EXPECTED_STEREO[::-1]])
    np.testing.assert_array_equal(purifier.purify(batch, RATE), expected)
    cleaned = purifier.purify(torch.from_numpy(STEREO), RATE)
    np.testing.assert_array_equal(cleaned.numpy(), EXPECTED_STEREO)


def test_a_list_comes_back_as_a_list_however_long_its_sounds_are() -> None:
    purifier = cleaner()
    ragged = [PLAIN, torch.from_numpy(PLAIN[:4_000]), STEREO]
    found = purifier.purify(ragged, RATE)
    assert [type(each) for each in found] == [np.ndarray, Tensor, np.ndarray]
    np.testing.assert_array_equal(found[0], EXPECTED)
    np.testing.assert_array_equal(found[1].numpy(), purifier.purify(PLAIN[:4_000], RATE))
    np.testing.assert_array_equal(found[2], EXPECTED_STEREO)
    np.testing.assert_array_equal(purifier.purify(PLAIN.tolist(), RATE), EXPECTED)
    nested = purifier.purify([PLAIN.tolist(), PLAIN.tolist()], RATE)
    np.testing.assert_array_equal(nested[1], EXPECTED)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", PLAIN, RATE, subtype="FLOAT")
    return tmp_path / "a.wav"


class Named:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


FILES = [
    *(str, Path, Named, np.str_),
    *(lambda path, kind=kind: kind(path.read_bytes()) for kind in (bytes, bytearray, memoryview)),
]


@pytest.mark.parametrize("form", FILES)
def test_a_file_knows_its_rate(file: Path, form: Callable[[Path], Any]) -> None:
    purifier = cleaner()
    np.testing.assert_array_equal(purifier.purify(form(file)), EXPECTED)
    np.testing.assert_array_equal(purifier.purify(form(file), RATE), EXPECTED)
    with pytest.raises(SettingError, match="sample_rate is 8000, expected 16000 Hz, as the sound"):
        purifier.purify(form(file), 8_000)


def test_a_file_of_two_channels_comes_back_as_two(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "b.wav", STEREO.T, 44_100, subtype="FLOAT")
    expected = np.stack([cleaner().purify(row, 44_100) for row in STEREO])
    np.testing.assert_array_equal(cleaner().purify(tmp_path / "b.wav"), expected)


def test_files_that_cannot_be_read_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        cleaner().purify(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="bytes: is not sound"):
        cleaner().purify(b"no sound at all")


@pytest.mark.parametrize("key", ["array", "raw"])
def test_the_dictionary_of_datasets_and_pipelines_comes_back_as_one(key: str) -> None:
    given = {key: PLAIN, "sampling_rate": RATE, "path": "a.wav", "label": 3}
    found = cleaner().purify(given)
    np.testing.assert_array_equal(found.pop(key), EXPECTED)
    assert found == {"sampling_rate": RATE, "path": None, "label": 3}
    assert given["path"] == "a.wav"
    with pytest.raises(SettingError, match="sample_rate is 8000, expected 16000 Hz"):
        cleaner().purify(given, 8_000)


def test_a_dictionary_that_names_a_file_comes_back_with_its_samples(file: Path) -> None:
    for given in ({"path": str(file)}, {"path": "gone", "bytes": file.read_bytes()}):
        found = cleaner().purify(given)
        np.testing.assert_array_equal(found["array"], EXPECTED)
        assert (found["sampling_rate"], found["path"]) == (RATE, None)


def test_a_decoder_is_asked_for_all_its_samples() -> None:
    decoded = SimpleNamespace(data=torch.from_numpy(STEREO), sample_rate=RATE)
    found = cleaner().purify(SimpleNamespace(get_all_samples=lambda: decoded))
    np.testing.assert_array_equal(found["array"].numpy(), EXPECTED_STEREO)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (STEREO.T, ShapeError, r"shape \(8000, 2\), .* so transpose \(T, channels\)"),
        (np.zeros((900, 850)), ShapeError, r"so transpose \(T, channels\)"),
        (PLAIN[:700], ShapeError, r"\(T,\) mono samples with T >= 800"),
        (np.zeros((0, 8_000)), ShapeError, r"\(T,\) mono samples"),
        ([], ShapeError, r"\(T,\) mono samples"),
        (np.float32(0.5), ShapeError, r"\(T,\) mono samples"),
        (None, SettingError, "the type of waveform is 'NoneType'"),
        (PLAIN.astype(">i8"), SettingError, "the type of waveform is '>i8'"),
        (
            torch.zeros(8_000).to_sparse(),
            SettingError,
            r"'torch\.sparse_coo on cpu', expected a dense",
        ),
        (
            torch.zeros(8_000, device="meta"),
            SettingError,
            "'torch.strided on meta', expected a dense",
        ),
        (io.BytesIO(b"RIFF"), SettingError, "'BytesIO', expected samples, a path, or the bytes of"),
        (io.StringIO("a"), SettingError, "'StringIO', expected samples, a path, or the bytes of"),
        (object(), SettingError, "the type of waveform is 'object'"),
        (PLAIN.astype(complex), SettingError, "the type of waveform is 'complex"),
        (np.zeros(8_000, dtype=bool), SettingError, "the type of waveform is 'bool'"),
        (np.zeros(8_000, dtype=np.int64), SettingError, "the type of waveform is 'int64'"),
        (torch.zeros(8_000).bool(), SettingError, "the type of waveform is 'bool'"),
        ({"audio": PLAIN}, SettingError, r"the keys of the sound is \['audio'\]"),
        (np.full(8_000, 1e300), SettingError, "waveform is 'not finite'"),
        (torch.full((8_000,), float("nan")), SettingError, "waveform is 'not finite'"),
    ],
)
def test_what_is_no_sound_is_refused(given: Any, error: type[Exception], sentence: str) -> None:
    for call in (cleaner().purify, _light().purify):
        with pytest.raises(error, match=sentence):
            call(given, RATE)
        if error is SettingError and "finite" not in sentence:
            with pytest.raises(error, match=sentence):  # a rate would not make it a sound
                call(given)


def test_the_light_purifier_reads_no_files() -> None:
    with pytest.raises(SettingError, match=r"waveform is 'a\.wav', expected samples with their"):
        _light().purify("a.wav")


def test_a_log_mel_of_another_front_end_is_refused() -> None:
    purifier = cleaner()
    assert purifier(torch.zeros(2, 1, 64, 30)).shape == (2, 1, 64, 30)
    for shape in ((2, 1, 63, 30), (2, 64, 30), (2, 2, 64, 30), (64, 30), (0,)):
        with pytest.raises(ShapeError, match=r"x has shape .*, expected \(B, 1, 64, F\)"):
            purifier(torch.zeros(shape))
    with pytest.raises(SettingError, match=r"the type of x is torch\.int64"):
        purifier(torch.zeros(2, 1, 64, 30).long())
    with pytest.raises(SettingError, match=r"x is 'ndarray', expected a torch\.Tensor"):
        purifier(np.zeros((2, 1, 64, 30)))
    weighted = Purifier(nn.Conv2d(1, 1, 1), purifier.scale, purifier.front_end)
    sentence = r"the type of x is torch\.float64, expected torch\.float32, that of the weights"
    with pytest.raises(SettingError, match=sentence):
        weighted(torch.zeros(2, 1, 64, 30).double())
    with torch.autocast("cpu", torch.bfloat16):
        assert weighted(torch.zeros(2, 1, 64, 30).bfloat16()).shape == (2, 1, 64, 30)


def test_sound_with_gradients_is_refused_in_other_shapes() -> None:
    differentiable = SoundPurifier(cleaner(), RATE)
    with pytest.raises(ShapeError, match=r"waveform has shape \(8000,\), expected \(B, T\)"):
        differentiable(torch.from_numpy(PLAIN))
    with pytest.raises(SettingError, match=r"waveform is 'ndarray', expected a torch\.Tensor"):
        differentiable(PLAIN)
