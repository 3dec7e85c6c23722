"""A Ray to work on: started on this machine, or a cluster that is joined."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from servax.errors import ServaxError, SettingError
from servax.runtime.host import load_extra

CONNECT_SECONDS = 5.0
JOIN_SECONDS = 60
"""For a port at which something listens that may be no cluster, or a busy one."""
OBJECT_STORE_BYTES = 100_000_000
"""Of a Ray started here; only texts pass through it."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
"""Nothing is reported to anyone, no working folder is uploaded, and a stage that reserves no GPU
sees none; a user's own settings go first."""
JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
ray.shutdown()
"""


@contextmanager
def joined(ray: Any, address: str | None, cpus: int | None) -> Iterator[None]:
    """Join a cluster, or start Ray here and stop it afterwards; a session of the caller's stays.

    Raises:
        ServaxError: Ray does not start.
    """
    if ray.is_initialized():  # the caller's own session: neither begun nor ended here
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=cpus or os.cpu_count(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        place = address or "this machine"
        raise ServaxError(f"{place}: Ray does not start ({last_line(error)}).") from error
    try:
        yield
    finally:
        ray.shutdown()


def ready(address: str | None) -> Any:
    """Return Ray, set up to report nothing to anyone, once a cluster answers at the address.

    Joining waits for minutes in native code, where no signal reaches it: a look at the port, then a
    process that can be ended tries first.

    Args:
        address: ``HOST:PORT`` of a cluster's head, or ``auto``; none where Ray is to start here.

    Raises:
        SettingError: `address` is none.
        ServaxError: Ray is not installed, or no cluster answers.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    ray = load_extra("ray", extra="ray", what="engine ray")
    if address is not None and not ray.is_initialized():
        _check_reachable(address, ray)
    return ray


def _check_reachable(address: str, ray: Any) -> None:
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 65536):
            raise SettingError("address", address, "HOST:PORT of a cluster's head, or auto")
        host = host.strip("[]")
        if host in ("localhost", "127.0.0.1", "::1"):
            host = ray.util.get_node_ip_address()  # as Ray itself reads it
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise _unreachable(address, error.strerror or str(error)) from None
    try:
        done = subprocess.run(
            [sys.executable, "-c", JOIN, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=JOIN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer in {JOIN_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise _unreachable(address, lines[-1] if lines else f"exit code {done.returncode}")


def _unreachable(address: str, reason: str) -> ServaxError:
    return ServaxError(
        f"{address}: no Ray cluster can be joined there ({reason.strip().rstrip('.')}); start one "
        "with ray start --head, run servax on one of its machines, and give HOST:PORT of its head."
    )


def last_line(error: object) -> str:
    """Return the last line of what an error says, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")
