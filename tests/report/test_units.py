from __future__ import annotations

import pytest

from servax.report.measures import units_of


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_window_gives_decibels_and_the_z_scores_of_18() -> None:
    units = units_of({"scale": {"window_db": 80.0}})
    assert units.z == pytest.approx(6.67, abs=0.005)
    assert [plain(units.told(epsilon)) for epsilon in (0.003, 0.015)] == [
        "0.24 dB, z .020",
        "1.20 dB, z .100",
    ]
    assert plain(units_of({"scale": {"window_db": 60}}).told(0.2)) == "12.00 dB, z 1.000"


def test_the_z_score_scale_is_exact_and_its_decibels_a_mean() -> None:
    scale = {"kind": "z-score", "width_sd": 6.67}
    units = units_of({"scale": scale})
    assert units.exact_z
    assert plain(units.told(0.003)) == "z .020"
    told = units_of({"scale": scale, "scale_sd_db": [11.0, 13.0]})
    assert plain(told.told(0.003)) == "mean 0.24 dB, z .020"


@pytest.mark.parametrize(
    "provenance",
    [{}, {"scale": {"mean": 3}}, {"scale": "loud"}, {"scale": {"window_db": "80"}}],
)
def test_no_scale_no_units(provenance: dict[str, object]) -> None:
    units = units_of(provenance)
    assert (units.db, units.z, units.told(0.003)) == (None, None, "")
