from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from servax.corpora import load
from servax.errors import CorpusError

Speak = Callable[[Path], Path]
HEAD = "path,label,speaker\n"


@pytest.fixture
def folder(tmp_path: Path, speak: Speak) -> Path:
    for name in ("a.wav", "b.wav", "c.wav", "sub/d.wav"):
        speak(tmp_path / name)
    return tmp_path


def write(folder: Path, content: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_small_manifest(folder: Path) -> None:
    path = write(folder, f"{HEAD}a.wav,sad,01\nsub/d.wav, angry ,02\n\nb.wav,sad,10\n")
    corpus = load(path)
    assert (corpus.name, corpus.root, corpus.scheme) == ("mine", folder, "native")
    assert corpus.labels == ("angry", "sad")
    assert corpus.speakers == ("01", "02", "10")
    assert list(corpus.utterances["utterance"]) == ["a.wav", "sub/d.wav", "b.wav"]
    assert corpus.label_index.tolist() == [1, 0, 1]
    assert corpus.paths == (folder / "a.wav", folder / "sub/d.wav", folder / "b.wav")
    assert corpus.description is None
    assert corpus.verify().ok
    assert [fold.test.speakers for fold in corpus.folds(3)] == [("01",), ("02",), ("10",)]


def test_every_column(folder: Path) -> None:
    path = write(
        folder,
        "\ufeffutterance,path,label,speaker,session,start,end,gender,text,remark\n"
        'one,a.wav,x,s1,1,,0.02,female,"hello, you",first\n'
        "two,a.wav,y,s2,1,0.02,,,,second\n",
    )
    table = load(path).utterances
    assert list(table["utterance"]) == ["one", "two"]
    assert list(table["session"]) == ["1", "1"]
    assert list(table["text"]) == ["hello, you", ""]
    assert list(table["gender"]) == ["female", ""]
    assert list(table["start"]) == [0.0, 0.02]
    np.testing.assert_array_equal(table["end"], [0.02, np.nan])
    assert "remark" not in table


def test_stretches_of_one_file_get_names(folder: Path) -> None:
    path = write(
        folder,
        "path,label,speaker,start,end\na.wav,x,s1,0,0.02\na.wav,x,s1,0.02,\nb.wav,x,s1,0,\n",
    )
    names = list(load(path).utterances["utterance"])
    assert names == ["a.wav@0.0-0.02", "a.wav@0.02-nan", "b.wav"]


def test_absolute_paths_and_another_root(folder: Path, tmp_path: Path) -> None:
    path = write(folder, f"{HEAD}{folder / 'a.wav'},x,s1\n")
    assert load(path).paths == (folder / "a.wav",)
    path = write(folder, f"{HEAD}d.wav,x,s1\n")
    assert load(path, folder / "sub").paths == (folder / "sub" / "d.wav",)


def test_parquet_says_the_same_as_csv(folder: Path) -> None:
    table = pd.DataFrame(
        {
            "path": ["a.wav", "b.wav"],
            "label": pd.Categorical(["x", "y"]),
            "speaker": [1, 2],
            "start": [0.0, 0.01],
            "end": [np.nan, 0.02],
            "session": [None, "s"],
        }
    )
    table.to_parquet(folder / "mine.parquet")
    table.to_csv(folder / "mine.csv", index=False)
    one, other = load(folder / "mine.parquet"), load(folder / "mine.csv")
    pd.testing.assert_frame_equal(one.utterances, other.utterances)
    assert one.speakers == ("1", "2")


def test_a_folder_name_is_no_column(folder: Path) -> None:
    inner = folder / "speaker=7"
    inner.mkdir()
    pd.DataFrame({"path": ["a.wav"], "label": ["x"]}).to_parquet(inner / "m.parquet")
    with pytest.raises(CorpusError, match=r"lacks the columns speaker; it has 'path', 'label'\."):
        load(inner / "m.parquet")


def test_scheme_four_merges_and_leaves_out(folder: Path) -> None:
    path = write(folder, f"{HEAD}a.wav,excited,1\nb.wav,happy,2\nc.wav,calm,3\n")
    corpus = load(path, scheme="four")
    assert list(corpus.utterances["label"]) == ["happy", "happy"]
    assert list(corpus.utterances["emotion"]) == ["excited", "happy"]


def refused(path: Path, sentence: str, **settings: str) -> None:
    with pytest.raises(CorpusError, match=f"^{re.escape(f'{path}: {sentence}')}$"):
        load(path, **settings)  # type: ignore[arg-type]


def test_scheme_four_refuses_an_unknown_label(folder: Path) -> None:
    path = write(folder, f"{HEAD}a.wav,happyy,1\n")
    sentence = (
        "mine: label 'happyy' has no place in scheme 'four', expected one of angry, bored, calm, "
        "disgusted, excited, fearful, frustrated, happy, neutral, other, sad, surprised. "
        "Did you mean 'happy'?"
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(sentence)}$"):
        load(path, scheme="four")


def test_scheme_four_refuses_a_manifest_with_nothing_left(folder: Path) -> None:
    path = write(folder, f"{HEAD}a.wav,calm,1\n")
    with pytest.raises(CorpusError, match=r"^mine: no utterance is left, expected at least one\.$"):
        load(path, scheme="four")


LACKS = "Expected path, label, speaker, separated by commas."
MALFORMED: list[tuple[str, str | bytes, str]] = [
    ("nothing", "", f"lacks the columns path, label, speaker; it has none. {LACKS}"),
    ("only a header", HEAD, "has no rows, expected one per utterance."),
    (
        "a missing column",
        "path,label\na.wav,x\n",
        f"lacks the columns speaker; it has 'path', 'label'. {LACKS}",
    ),
    (
        "semicolons",
        "path;label;speaker\na.wav;x;1\n",
        f"lacks the columns path, label, speaker; it has 'path;label;speaker'. {LACKS}",
    ),
    (
        "capital letters",
        "Path,Label,Speaker\na.wav,x,1\n",
        f"lacks the columns path, label, speaker; it has 'Path', 'Label', 'Speaker'. {LACKS}",
    ),
    (
        "a doubled column",
        "path,label,speaker,label\na.wav,x,1,y\n",
        "column 'label' stands 2 times, expected once.",
    ),
    (
        "a misspelt column",
        "path,label,speaker,sesion\na.wav,x,1,2\n",
        "column 'sesion' is unknown. Did you mean 'session'?",
    ),
    (
        "a misspelt column in capitals",
        "path,label,speaker,Start\na.wav,x,1,2\n",
        "column 'Start' is unknown. Did you mean 'start'?",
    ),
    (
        "too many cells",
        f"{HEAD}a.wav,x,1,2\n",
        "line 2 has 4 cells, the header has 3: quote cells that hold commas.",
    ),
    (
        "too few cells",
        f"{HEAD}a.wav,x,1\nb.wav\n",
        "line 3 has 1 cells, the header has 3: quote cells that hold commas.",
    ),
    ("an empty path", f"{HEAD},x,1\n", "line 2 has no path."),
    ("an empty label", f"{HEAD}a.wav,  ,1\n", "line 2 has no label."),
    ("an empty speaker", f"{HEAD}a.wav,x,1\nb.wav,x,\n", "line 3 has no speaker."),
    (
        "a start in words",
        "path,label,speaker,start\na.wav,x,1,soon\n",
        "line 2 has start 'soon', expected a number of seconds >= 0.",
    ),
    (
        "a negative start",
        "path,label,speaker,start\na.wav,x,1,-0.5\n",
        "line 2 has start '-0.5', expected a number of seconds >= 0.",
    ),
    (
        "an endless end",
        "path,label,speaker,end\na.wav,x,1,inf\n",
        "line 2 has end 'inf', expected a number of seconds >= 0.",
    ),
    (
        "an end that is no number",
        "path,label,speaker,end\na.wav,x,1,nan\n",
        "line 2 has end 'nan', expected a number of seconds >= 0.",
    ),
    (
        "an end before the start",
        "path,label,speaker,start,end\na.wav,x,1,2,1\n",
        "line 2 ends at 1 s, expected a time after 2 s.",
    ),
    (
        "an end at the start",
        "path,label,speaker,end\na.wav,x,1,0\n",
        "line 2 ends at 0 s, expected a time after 0 s.",
    ),
    (
        "a strange gender",
        "path,label,speaker,gender\na.wav,x,1,F\n",
        "line 2 has gender 'F', expected female, male or empty.",
    ),
    (
        "a repeated row",
        f"{HEAD}a.wav,x,1\nb.wav,x,1\na.wav,y,2\n",
        "line 4 repeats line 2 (a.wav).",
    ),
    (
        "a repeated stretch",
        "path,label,speaker,start,end\na.wav,x,1,0.1,1\na.wav,x,1,.1,1.0\n",
        "line 3 repeats line 2 (a.wav).",
    ),
    (
        "a repeated name",
        "utterance,path,label,speaker\nu,a.wav,x,1\nu,b.wav,x,1\n",
        "line 3 has the utterance name 'u' of line 2.",
    ),
    (
        "a given name that is another one's default",
        "utterance,path,label,speaker\nb.wav,a.wav,x,1\n,b.wav,x,1\n",
        "line 3 has the utterance name 'b.wav' of line 2.",
    ),
    (
        "missing files",
        f"{HEAD}a.wav,x,1\n1.wav,x,1\n2.wav,x,1\n3.wav,x,1\n4.wav,x,1\n",
        "4 of 5 sound files do not exist: 1.wav, 2.wav, 3.wav, …. "
        "Relative paths start from {folder}.",
    ),
    (
        "a folder as a file",
        f"{HEAD}sub,x,1\n",
        "1 of 1 sound files do not exist: sub. Relative paths start from {folder}.",
    ),
    (
        "an endless file name",
        f"{HEAD}{'a' * 5000},x,1\n",
        f"1 of 1 sound files do not exist: {'a' * 5000}. Relative paths start from {{folder}}.",
    ),
    ("a zero byte", f"{HEAD}a\0.wav,x,1\n", "line 2 has a zero byte in its path."),
    (
        "Latin-1",
        "path,label,speaker\na.wav,fröhlich,1\n".encode("latin-1"),
        "is not UTF-8 text, save it as CSV in UTF-8.",
    ),
    (
        "UTF-16",
        "path,label,speaker\na.wav,x,1\n".encode("utf-16"),
        "is not UTF-8 text, save it as CSV in UTF-8.",
    ),
    (
        "an open quote",
        f'{HEAD}"a.wav,x,1\n',
        "line 2 is not CSV (unexpected end of data).",
    ),
    (
        "text behind a quote",
        f'{HEAD}"a.wav"x,x,1\n',
        "line 2 is not CSV (',' expected after '\"').",
    ),
]


@pytest.mark.parametrize(
    ("content", "sentence"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_malformed_csv(folder: Path, content: str | bytes, sentence: str) -> None:
    path = write(folder, content)
    refused(path, sentence.replace("{folder}", str(folder)))


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "ABSENT.CSV"])
def test_an_absent_manifest(tmp_path: Path, name: str) -> None:
    refused(tmp_path / name, "does not exist or is no file, expected a CSV or Parquet table.")


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").mkdir()
    refused(tmp_path / "m.csv", "does not exist or is no file, expected a CSV or Parquet table.")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"path,label,speaker\n", b"PAR1" * 100])
def test_what_is_no_parquet(folder: Path, content: bytes) -> None:
    path = write(folder, content, "m.parquet")
    with pytest.raises(
        CorpusError, match=rf"^{re.escape(str(path))}: is not a Parquet table \(.+\)\.$"
    ):
        load(path)


def test_parquet_cut_off(folder: Path) -> None:
    path = folder / "m.parquet"
    pd.DataFrame({"path": ["a.wav"], "label": ["x"], "speaker": ["1"]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match=r"m\.parquet: is not a Parquet table \(.+\)\.$"):
        load(path)


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("label", [["x"]], "column 'label' holds list<element: string>, expected text or numbers."),
        ("label", [b"x"], "column 'label' holds binary, expected text or numbers."),
        ("speaker", [None], "row 1 has no speaker."),
        ("speaker", [float("nan")], "row 1 has no speaker."),
        ("start", ["x"], "row 1 has start 'x', expected a number of seconds >= 0."),
        ("start", [-1.0], "row 1 has start '-1.0', expected a number of seconds >= 0."),
    ],
)
def test_malformed_parquet(folder: Path, column: str, values: list[object], sentence: str) -> None:
    path = folder / "m.parquet"
    cells: dict[str, list[object]] = {"path": ["a.wav"], "label": ["x"], "speaker": ["1"]}
    pyarrow.parquet.write_table(pa.table(cells | {column: values}), path)
    refused(path, sentence)


def test_parquet_without_rows(folder: Path) -> None:
    path = folder / "m.parquet"
    pyarrow.parquet.write_table(pa.table({"path": [], "label": [], "speaker": []}), path)
    refused(path, "has no rows, expected one per utterance.")
