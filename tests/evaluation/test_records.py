from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servax.errors import ServaxError, SettingError
from servax.evaluation import records
from servax.evaluation.records import COLUMNS, Records

PROVENANCE = {"corpus": "made-up", "seed": 0, "versions": {"torch": "2.13.0"}}
LISTED = ", ".join(COLUMNS)


def make_frame(count: int = 4, **changes: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "utterance": [f"u{i}" for i in range(count)],
            "speaker": ["s0", "s1"] * (count // 2),
            "fold": 0,
            "seed": 0,
            "label": "sad",
            "prediction": "angry",
            "target": "vgg16",
            "defence": "ssad",
            "attack": "pgd",
            "strength": 15,
            "knowledge": "oblivious",
            "gender": "female",
            "corpus": "made-up",
        }
    )
    return frame.assign(**changes)


def test_comes_back_as_written(tmp_path: Path) -> None:
    frame = make_frame(gender=["female", None, "", "male"])
    path = tmp_path / "deep" / "records.parquet"
    records.write(frame[frame.columns[::-1]], path, provenance=PROVENANCE)
    back = records.read(path)
    assert back.provenance == PROVENANCE
    assert list(back.frame.columns) == list(COLUMNS)
    assert {name: str(dtype) for name, dtype in back.frame.dtypes.items()} == dict(COLUMNS)
    assert back.frame["gender"].tolist() == ["female", "unknown", "unknown", "male"]
    assert back.frame["utterance"].tolist() == frame["utterance"].tolist()
    assert back.frame["strength"].tolist() == [15.0] * 4


def test_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    records.write(make_frame(), path, provenance=PROVENANCE)
    table = pq.read_table(path)
    assert str(table.schema.field("strength").type) == "double"
    assert json.loads(table.schema.metadata[b"servax"]) == PROVENANCE
    assert len(pd.read_parquet(path)) == 4


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "records.parquet"
    records.write(make_frame(), path, provenance=PROVENANCE)

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ServaxError, match=r"records.parquet: cannot be written \(no space left\)"):
        records.write(make_frame(2), path, provenance=PROVENANCE)
    assert len(records.read(path).frame) == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["records.parquet"]


def test_concat_joins_rows_and_provenance() -> None:
    parts = [Records(make_frame(seed=seed), {**PROVENANCE, "seed": seed}) for seed in (0, 1)]
    joined = records.concat(parts)
    assert len(joined.frame) == 8
    assert joined.provenance == {**PROVENANCE, "seed": [0, 1]}


@pytest.mark.parametrize(
    ("frame", "error", "sentence"),
    [
        (
            make_frame().drop(columns="strength"),
            ServaxError,
            f"records lack the column 'strength'; expected the columns {LISTED}.",
        ),
        (
            make_frame(mood="sad"),
            ServaxError,
            f"records have a column 'mood'; expected the columns {LISTED} and no other.",
        ),
        (make_frame(0), ServaxError, "records have no row; expected at least one utterance."),
        (
            make_frame(knowledge="obvious"),
            SettingError,
            "knowledge is 'obvious', expected one of adaptive, black_box, bpda, none, oblivious, "
            "transfer. Did you mean 'oblivious'?",
        ),
        (
            pd.concat([make_frame(), make_frame(2)]),
            ServaxError,
            "records hold 2 rows twice, first utterance u0, fold 0, seed 0, target vgg16, defence "
            "ssad, attack pgd, strength 15.0, knowledge oblivious; expected each condition of an "
            "utterance once.",
        ),
        (
            make_frame(prediction=["sad", None, "sad", "sad"]),
            ServaxError,
            "row 1 of the records has no prediction; expected a value in each row.",
        ),
        (
            make_frame(label=3),
            ServaxError,
            "label of the records is 3; expected a name (str).",
        ),
        (
            make_frame(fold=0.5),
            ServaxError,
            "fold of the records has values that are not whole numbers.",
        ),
        (
            make_frame(strength="strong"),
            ServaxError,
            "strength of the records has values that are not numbers.",
        ),
        (
            make_frame(strength=np.inf),
            ServaxError,
            "strength of the records has values that are not numbers.",
        ),
        (
            make_frame(attack="none"),
            ServaxError,
            "records hold attack 'none' with strength 15 and knowledge 'oblivious', but attack "
            "'none' goes with knowledge 'none'.",
        ),
        (
            make_frame(knowledge="none"),
            ServaxError,
            "records hold attack 'pgd' with strength 15 and knowledge 'none', but knowledge 'none' "
            "goes with attack 'none'.",
        ),
        (
            make_frame(strength=0),
            ServaxError,
            "records hold attack 'pgd' with strength 0 and knowledge 'oblivious', but an attack "
            "has a strength above 0.",
        ),
        (
            make_frame(attack="none", knowledge="none"),
            ServaxError,
            "records hold attack 'none' with strength 15 and knowledge 'none', but attack 'none' "
            "has strength 0.",
        ),
    ],
)
def test_refuses_rows(frame: pd.DataFrame, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as caught:
        records.validate(frame)
    assert str(caught.value) == sentence


def test_refuses_provenance_that_is_not_json(tmp_path: Path) -> None:
    sentence = (
        r"^the provenance cannot be stored as JSON: Object of type PosixPath is not JSON "
        r"serializable; expected strings, numbers, lists and objects only\.$"
    )
    with pytest.raises(ServaxError, match=sentence):
        records.write(make_frame(), tmp_path / "r.parquet", provenance={"recipe": Path("/a")})
    with pytest.raises(
        ServaxError, match=r"^the provenance cannot be stored as JSON: Out of range"
    ):
        records.write(make_frame(), tmp_path / "r.parquet", provenance={"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_refuses_files(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with pytest.raises(ServaxError) as caught:
        records.read(path)
    assert str(caught.value) == f"{path}: no such file, expected a records table (.parquet)."
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(ServaxError) as caught:
        records.read(path)
    assert str(caught.value) == f"{path}: not a readable Parquet file, expected a records table."
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ServaxError) as caught:
        records.read(path)
    assert str(caught.value) == (
        f"{path}: no provenance inside, expected a table that servax has written."
    )
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"servax": "{}"}), path)
    with pytest.raises(ServaxError) as caught:
        records.read(path)
    assert str(caught.value).startswith(f"{path}: records lack the column 'utterance'; expected")


def test_concat_refuses() -> None:
    with pytest.raises(ServaxError, match=r"^no records to join, expected at least one table\.$"):
        records.concat([])
    parts = [Records(make_frame(fold=i), {"fold_hash": f"{i}f"}) for i in range(2)]
    sentence = (
        r'^records differ in their fold_hash \("0f" and "1f"\) and cannot be compared; '
        r"join tables of one setting only\.$"
    )
    with pytest.raises(ServaxError, match=sentence):
        records.concat(parts)
    same = Records(make_frame(), PROVENANCE)
    with pytest.raises(
        ServaxError, match=r"^records hold 4 rows twice, first utterance u0, fold 0"
    ):
        records.concat([same, same])


def _version_1(path: Path, frame: pd.DataFrame, provenance: dict[str, object]) -> Path:
    """Write a table as version 1 did, which had none of the settings of an attack."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"servax": json.dumps(provenance)}), path)
    return path


@pytest.mark.parametrize(
    ("changes", "provenance", "told"),
    [
        ({}, {"attacks": {"step": 0.003, "radius": 0.02}}, ("linf", 0.02, 15, 0.003, 1, "logmel")),
        ({}, {}, ("linf", np.nan, 15, 0.0, 1, "logmel")),
        ({"attack": "fgsm", "strength": 0.3}, {}, ("linf", 0.3, 1, 0.3, 1, "logmel")),
        (
            {"attack": "none", "strength": 0, "knowledge": "none"},
            {},
            ("none", 0.0, 0, 0.0, 1, "logmel"),
        ),
        (
            {"strength": 2.0},
            {"audit": {"budget": {"norm": "l2", "bounds": [-1.0, 1.0]}}},
            ("l2", 2.0, 0, 0.0, 1, "waveform"),
        ),
        (
            {"attack": "pgd-waveform-30dB", "strength": 0.03},
            {"audit": {"budget": {"norm": "linf", "bounds": [0.0, 1.0]}}},
            ("snr", 0.03, 0, 0.0, 1, "waveform"),
        ),
        (
            {"attack": "pgd-restarts-100x5", "strength": 0.02},
            {},
            ("linf", 0.02, 100, 0.005, 5, "logmel"),
        ),
    ],
)
def test_version_1_is_given_what_it_does_not_say(
    tmp_path: Path,
    changes: dict[str, object],
    provenance: dict[str, object],
    told: tuple[object, ...],
) -> None:
    file = _version_1(tmp_path / "old.parquet", make_frame(2, **changes), provenance)
    row = records.read(file).frame.iloc[0]
    names = ["norm", "epsilon", "steps", "step_size", "restarts", "space"]
    for found, expected in zip(row[names], told, strict=True):
        assert found == expected or (pd.isna(found) and pd.isna(expected))


L2_OF_SOUND = {"audit": {"budget": {"norm": "l2", "bounds": [-1.0, 1.0]}}}


@pytest.mark.parametrize(
    ("space", "provenance", "version", "norm"),
    [
        ("waveform", {}, None, "snr"),
        ("waveform", {"audit": {"budget": {"norm": "l2", "bounds": [0.0, 1.0]}}}, None, "snr"),
        ("waveform", L2_OF_SOUND, None, "l2"),
        ("logmel", {}, None, "l2"),
        ("waveform", {}, b"3", "l2"),
    ],
)
def test_a_ratio_that_version_2_called_l2_gets_its_own_word(
    tmp_path: Path, space: str, provenance: dict[str, Any], version: bytes | None, norm: str
) -> None:
    file = tmp_path / "old.parquet"
    records.write(records.validate(make_frame(2)), file, provenance=provenance)
    table = pq.read_table(file)
    frame = table.to_pandas().assign(norm="l2", space=space, epsilon=0.02)
    metadata = {b"servax": table.schema.metadata[b"servax"]}
    metadata |= {} if version is None else {b"servax-records": version}
    pq.write_table(pa.Table.from_pandas(frame, table.schema.with_metadata(metadata)), file)
    assert set(records.read(file).frame["norm"]) == {norm}
    records.write(records.read(file).frame, file, provenance=provenance)
    assert set(records.read(file).frame["norm"]) == {norm}


def test_an_unknown_size_stays_unknown_and_part_of_the_new_columns_is_refused(
    tmp_path: Path,
) -> None:
    frame = records.validate(make_frame(2)).assign(epsilon=[np.nan, 0.02])
    records.write(frame, tmp_path / "new.parquet", provenance={})
    assert records.read(tmp_path / "new.parquet").frame["epsilon"].isna().tolist() == [True, False]
    with pytest.raises(ServaxError, match="records lack the column 'space'"):
        records.validate(frame.drop(columns="space"))
    with pytest.raises(SettingError, match="norm is 'l1', expected one of"):
        records.validate(frame.assign(norm="l1"))
