"""An audit read again from its records and ``audit.json``, alone and beside another or a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from audit_by_hand import RIGHT, make_result

from servax.cli import main
from servax.errors import PathError, ServaxError
from servax.evaluation import records
from servax.report import write_comparison
from servax.report.audit import AuditResult, read_results, write_audit

RESULTS = Path(__file__).parents[3] / "results"
AUDIT, RUN = RESULTS / "ravdess_audit", RESULTS / "ravdess_paper_cpu" / "records" / "fold-1.parquet"


def kept(result: AuditResult, home: Path) -> Path:
    """Write an audit as `servax audit` keeps it."""
    provenance = {**result.records.provenance, "audit": {"tier": "smoke"}}
    records.write(result.records.frame, home / "records" / "audit.parquet", provenance=provenance)
    write_audit(result, home / "report")
    return home


def test_an_audit_read_again_says_the_same(tmp_path: Path) -> None:
    home = kept(make_result(fail_under=10.0, judged_by="lost"), tmp_path / "audit")
    again = read_results(home)
    assert isinstance(again, AuditResult)
    write_audit(again, tmp_path / "again")
    names = ("audit.json", "audit.junit.xml", "tables/worst-case.csv", "tables/attacks.tex")
    told = {name: (home / "report" / name).read_text() for name in names}
    found = {name: (tmp_path / "again" / name).read_text() for name in names}
    first, second = (json.loads(texts.pop("audit.json")) for texts in (told, found))
    assert len(first.pop("clips")) == 3
    assert second.pop("clips") == []  # the sounds are in the first report alone
    assert first == second
    assert told == found


def test_the_shipped_audit_is_reported_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(AUDIT), "--out", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["columns"][0] == "system"
    assert shown["rows"][0][:2] == ["undefended", "67.2"]
    old, new = (json.loads((f / "audit.json").read_text()) for f in (AUDIT / "report", tmp_path))
    for key in ("findings", "measures", "realisability", "detection", "card", "radius", "chance"):
        assert new[key] == old[key], key
    for before, after in zip(old["systems"], new["systems"], strict=True):
        for name in ("clean", "worst_case"):
            assert after[name]["uar"] == before[name]["uar"]
            assert after[name]["attacks"] == before[name]["attacks"]
    for name in ("realisability.csv", "realisability.tex", "detection.csv", "checks.tex"):
        assert (tmp_path / "tables" / name).read_bytes() == (
            AUDIT / "report" / "tables" / name
        ).read_bytes()


def test_without_its_json_an_audit_is_refused(tmp_path: Path) -> None:
    home = kept(make_result(), tmp_path)
    (home / "report" / "audit.json").write_text("{}")
    with pytest.raises(PathError, match=r"audit\.json: cannot be read as the audit\.json of an"):
        read_results(home)
    (home / "report" / "audit.json").unlink()
    with pytest.raises(PathError, match="expected the one that `servax audit` has written beside"):
        read_results(home)


def rows_of(a: Any, b: Any, folder: Path) -> tuple[pd.DataFrame, str]:
    table, paths = write_comparison(a, b, folder, names=("first", "second"))
    assert table.numbers is not None
    return table.numbers.set_index(["defence", "measure"]), paths.markdown.read_text()


def test_audits_side_by_side(tmp_path: Path) -> None:
    first = make_result()
    worse = RIGHT | {("ssad", "pgd", 0.02, "adaptive"): "00000000"}
    found, text = rows_of(first, make_result(worse), tmp_path)
    adaptive = found.loc[("ssad", "adaptive")]
    assert (adaptive["a_percent"], adaptive["b_percent"]) == (12.5, 0.0)  # by hand, see RIGHT
    assert adaptive["difference_points"] == -12.5
    assert adaptive["low_points"] <= -12.5 <= adaptive["high_points"]
    assert found.loc[("pgd-at", "worst of all"), "difference_points"] == 0
    assert ("pgd-at", "black box") not in found.index  # nobody tried
    assert "not compared" not in text


def test_what_was_attacked_otherwise_is_shown_and_not_compared(tmp_path: Path) -> None:
    fewer = {key: right for key, right in RIGHT.items() if key[1] != "square"}
    found, text = rows_of(make_result(), make_result(fewer), tmp_path)
    black_box = found.loc[("ssad", "black box")]
    assert (black_box["a_percent"], black_box["b_percent"]) == (62.5, 75.0)
    assert np.isnan(black_box["difference_points"])
    assert "attacked by other attacks, so these measures are shown, and not compared: black" in text
    larger = make_result(radius=0.5)
    assert "attacked at radius 0.02 and 0.5" in rows_of(make_result(), larger, tmp_path)[1]


def test_an_audit_beside_a_run(tmp_path: Path) -> None:
    found, text = rows_of(read_results(AUDIT), read_results(RUN), tmp_path)
    assert "A is an audit and B a run: only what both measured alike stands here, clean, FGSM" in (
        text
    )
    clean = found.xs("clean", level="measure")
    assert (clean["difference_points"].abs() < 1).all()  # the same models, on the same speakers
    assert set(found.index.get_level_values("measure")) == {"clean", "FGSM mean"}


def test_refuses_another_corpus(tmp_path: Path) -> None:
    with pytest.raises(ServaxError, match="corpus is made-up and ravdess"):
        write_comparison(make_result(), read_results(AUDIT), tmp_path, names=("a", "b"))
