"""A slice of the ten thousand mutants of ``fuzz_sound.py``, small enough for every test run.

Also that the watch would see what it is there for: a crash, a hang, a file where none may be.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import watched
from fuzz_sound import attack
from hypothesis import given, settings, strategies as st
from mutants import CONTAINERS, encoded, mended, mutant
from watched import Watched

from servax.service import Refusal, ServiceSettings, decode

PURIFIER = "ssad-plus-synthetic"


def clip() -> np.ndarray:
    """Return half a second of noise whose level moves as that of syllables does."""
    time = np.arange(8_000) / 16_000
    noise = np.random.default_rng(0).normal(0, 0.1, time.size)
    return (noise * (1 + np.sin(2 * np.pi * 4 * time))).astype(np.float32)


SEEDS = encoded(clip(), 16_000)


@pytest.mark.parametrize(("mode", "mutants"), [("body", 300), ("file", 150)])
def test_mutants_end_in_a_refusal_or_in_sound(mode: str, mutants: int) -> None:
    with Watched(mode, PURIFIER) as victim:
        record = attack(victim, SEEDS, mutants, seed=1)
    assert record["faults"] == []
    assert (record["complaints"], record["stray_files"], record["starts"]) == ([], [], 1)
    assert record["rss_peak_mib"] < record["rss_ready_mib"] + 200
    outcomes = record["outcomes"]
    assert sum(outcomes.values()) == mutants
    good = outcomes.get("purified", 0) + outcomes.get("purify_done", 0)
    assert good >= mutants // 20  # many a mutant must reach the purifier
    assert outcomes["damaged"] >= mutants // 20


@given(st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_a_body_is_decoded_or_refused(draw: random.Random) -> None:
    body = mutant(SEEDS, draw)[1]
    with contextlib.suppress(Refusal):
        assert np.isfinite(
            decode(body, ServiceSettings(max_seconds=2.0, decode_seconds=60.0)).samples
        ).all()


@given(st.binary(max_size=600))
def test_bytes_are_decoded_or_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match=r"\.$"):
        decode(body, ServiceSettings())


def test_a_mutant_is_named_by_its_number() -> None:
    assert mutant(SEEDS, random.Random("0/7")) == mutant(SEEDS, random.Random("0/7"))
    assert len({mutant(SEEDS, random.Random(f"0/{i}"))[1] for i in range(100)}) > 95


def test_checksums_of_ogg_pages_are_those_of_libogg() -> None:
    for name, body in SEEDS.items():
        if name.startswith("ogg"):
            assert mended(body) == body
            assert mended(body[:22] + b"\0\0\0\0" + body[26:]) == body


def test_all_seeds_are_sound(tmp_path: Path) -> None:
    assert len(SEEDS) == len(CONTAINERS)
    for name, body in SEEDS.items():
        path = tmp_path / name
        path.write_bytes(body)
        assert soundfile.info(path).frames >= 8_000


VICTIM = """
import json, sys, os, time
def say(**said): print(json.dumps(said), flush=True)
say(ready=True, rss=0)
{then}
"""
READ = "size = sys.stdin.buffer.read(4); sys.stdin.buffer.read(3)\n"


def watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, seconds: float = 60.0
) -> tuple[dict[str, object], list[str], list[str]]:
    """Return what is told of a victim that does something when it is given ``abc``."""
    script = tmp_path / "victim.py"
    script.write_text(VICTIM.format(then=READ + then))
    monkeypatch.setattr(watched, "VICTIM", script)
    with Watched("body", "none", seconds) as victim:
        return victim.give(b"abc"), victim.complaints(), victim.stray()


def test_a_crash_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, _, _ = watch(tmp_path, monkeypatch, "os.kill(os.getpid(), 11)")
    assert said == {"outcome": "crash", "trace": "SIGSEGV"}


def test_a_hang_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(tmp_path, monkeypatch, "time.sleep(60)", 1.0)[0] == {"outcome": "hang"}


def test_a_stray_file_and_a_complaint_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = "open('stray', 'w'); sys.stderr.write('From cffi callback'); say(outcome='fine')"
    said, complaints, stray = watch(tmp_path, monkeypatch, then)
    assert (said, complaints, stray) == (
        {"outcome": "fine"},
        ["From cffi callback"],
        ["here/stray"],
    )


def test_writing_outside_the_folder_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    then = f"""
sys.path.insert(0, {str(Path(watched.__file__).parent)!r})
from pathlib import Path
from victim import Watch
seen = Watch(Path({str(allowed)!r}))
open({str(allowed / "fine")!r}, "w")
try: open({str(tmp_path / "allowed-not")!r}, "wb")
except OSError: pass
os.mkdir("folder")
open(os.devnull)
say(outcome="fine", writes=seen.seen)
"""
    said, _, _ = watch(tmp_path, monkeypatch, then.strip())
    writes = said["writes"]
    assert isinstance(writes, list)
    assert [each.split()[0] for each in writes] == ["open", "os.mkdir"]
