from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servax.errors import ServaxError, SettingError, ShapeError
from servax.report import Examples


def test_comes_back_as_saved(tmp_path: Path, examples: Examples) -> None:
    path = tmp_path / "deep" / "example.npz"
    examples.save(path)
    back = Examples.load(path)
    for name in ("original", "attacked", "purified"):
        np.testing.assert_array_equal(getattr(back, name), getattr(examples, name))
        assert getattr(back, name).dtype == np.float32
    assert (back.hop_seconds, back.title) == (examples.hop_seconds, examples.title)


def test_refuses_bad_arrays(examples: Examples) -> None:
    with pytest.raises(
        ShapeError, match=r"^original has shape \(3,\), expected \(M, F\): Mel bins by"
    ):
        replace(examples, original=np.zeros(3))
    sentence = r"^purified has shape \(2, 3\), expected \(64, 200\), as the original\.$"
    with pytest.raises(ShapeError, match=sentence):
        replace(examples, purified=np.zeros((2, 3)))
    sentence = r"^a value of attacked is 'not finite', expected dB values, all finite\.$"
    with pytest.raises(SettingError, match=sentence):
        replace(examples, attacked=examples.attacked * np.nan)
    sentence = r"^hop_seconds is 0, expected a time in seconds above 0\.$"
    with pytest.raises(SettingError, match=sentence):
        replace(examples, hop_seconds=0)


def test_never_opens_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(path, original=objects, attacked=objects, purified=objects, hop_seconds=1, title="x")
    with pytest.raises(ServaxError) as caught:
        Examples.load(path)
    assert str(caught.value) == (
        f"{path}: not an example; expected an .npz file with the plain arrays original, attacked, "
        "purified, hop_seconds and title."
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"nonsense"])
def test_refuses_files_that_are_no_example(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "example.npz"
    path.write_bytes(content)
    with pytest.raises(ServaxError, match=r"example\.npz: not an example; expected an \.npz file"):
        Examples.load(path)
    with pytest.raises(
        ServaxError, match=r"no\.npz: no such file, expected an example \(\.npz\)\.$"
    ):
        Examples.load(tmp_path / "no.npz")
    np.savez(path, original=np.zeros((2, 2)))
    with pytest.raises(ServaxError, match=r"example\.npz: not an example"):
        Examples.load(path)
