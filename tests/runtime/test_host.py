"""CPUs and memory as control groups allow them, on trees as real machines show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servax.runtime import host

MIB = 2**20
MACHINE = 64 * 2**30
TREES = {
    # podman run --cpus 1.5 --memory 4g: a namespace of its own, so the path is the root.
    "podman, version 2": (
        "0::/\n",
        {"cpu.max": "150000 100000", "memory.max": "4294967296"},
        2,
        4096,
    ),
    # systemd-run -p CPUQuota=300% -p MemoryMax=2G: the slice above may have less.
    "systemd, version 2": (
        "0::/system.slice/servax.service\n",
        {
            "system.slice/servax.service/cpu.max": "300000 100000",
            "system.slice/servax.service/memory.max": "max",
            "system.slice/cpu.max": "max 100000",
            "system.slice/memory.max": "2147483648",
        },
        3,
        2048,
    ),
    # docker on an old kernel: the path is that of the machine outside, the mount is our own group.
    "docker, version 1": (
        "4:memory:/docker/7f3a\n3:cpu,cpuacct:/docker/7f3a\n2:pids:/docker/7f3a\n0::/docker/7f3a\n",
        {
            "cpu/cpu.cfs_quota_us": "50000",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "536870912",
        },
        1,
        512,
    ),
    "no limits, version 1": (
        "2:memory:/\n1:cpu:/\n",
        {
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
        16,
        MACHINE // MIB,
    ),
    "no groups": ("", {}, 16, MACHINE // MIB),
}


@pytest.mark.parametrize("name", TREES)
def test_a_control_group_limits_cpus_and_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, files, cpus, mib = TREES[name]
    (tmp_path / "own").write_text(own)
    (tmp_path / "fs").mkdir()
    if ",cpuacct" in own:  # one mount, and a link for each of its controllers
        (tmp_path / "fs" / "cpu,cpuacct").mkdir()
        (tmp_path / "fs" / "cpu").symlink_to("cpu,cpuacct")
    for path, said in files.items():
        place = tmp_path / "fs" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(said + "\n")
    monkeypatch.setattr(host, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(host, "GROUPS", tmp_path / "fs")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": MACHINE // 4096, "SC_PAGE_SIZE": 4096}.get)
    assert (host.cpus(), host.memory_bytes()) == (cpus, mib * MIB)
