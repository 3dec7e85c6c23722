"""Filling and cropping give the same values in a graph that is exported as elsewhere."""

from __future__ import annotations

import pytest
import torch

from servax.models.unet import cropped, filled


@pytest.mark.parametrize("exporting", [False, True])
@pytest.mark.parametrize(("whole", "before"), [(1, 0), (8, 0), (16, 0), (1, 4), (8, 3)])
@pytest.mark.parametrize("size", [(1, 1), (64, 16), (40, 37)])
def test_first_and_last_are_repeated(
    size: tuple[int, int],
    whole: int,
    before: int,
    exporting: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    x = torch.rand(2, 1, *size)
    grown = filled(x, whole, before=before)
    mels, frames = grown.shape[2:]
    assert mels % whole == frames % whole == 0
    assert 0 <= mels - size[0] - before < whole
    for row in range(mels):
        for frame in range(frames):
            source = (
                min(max(i - before, 0), n - 1) for i, n in zip((row, frame), size, strict=True)
            )
            at = tuple(source)
            assert torch.equal(grown[:, 0, row, frame], x[:, 0, at[0], at[1]])
    assert torch.equal(cropped(grown, *size, before=before), x)
