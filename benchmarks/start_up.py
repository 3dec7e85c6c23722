"""How long servax takes to begin: ``import servax`` beside torch, and ``servax --help``.

Each contender is a fresh process. What importing servax adds to torch is the difference of two of
them; the names that it loads only when they are first used are told too.

    python benchmarks/start_up.py --rounds 9
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from clips import environment
from harness import Defaults, Row, Times, parser, race, write

SECONDS = 0.3
PROGRAMS = {
    "import torch": "import torch",
    "import torch, servax": "import torch, servax",
    "import torch, servax; servax.Purifier": "import torch, servax; servax.Purifier",
    "import torch, servax, and every name": (
        "import torch, servax\nfor name in servax.__all__: getattr(servax, name)"
    ),
}
HELP = """
import sys
from servax.cli import main
main(["--help"])
assert "torch" not in sys.modules
"""


def main() -> int:
    """Time the processes; 0 when both targets are met."""
    given = parser(__doc__.splitlines()[0], Defaults(rounds=9)).parse_args()
    contenders = {name: _process("-c", code) for name, code in PROGRAMS.items()}
    contenders["servax --help"] = _process("-m", "servax", "--help")
    _process("-c", HELP)()  # fails if it loads torch
    times = race(contenders, rounds=given.rounds)
    rows = [_added(times, name) for name in list(PROGRAMS)[1:]]
    took = times["servax --help"].seconds.median
    rows.append(
        Row(
            what="`servax --help`, without torch",
            against="—",
            target=f"≤ {SECONDS:g} s",
            measured=f"{took:.3f} s",
            met=took <= SECONDS,
        )
    )
    write("start_up", rows, times=times, folder=given.results)
    return 0 if all(row.met is not False for row in rows) else 1


def _process(*arguments: str) -> Callable[[], None]:
    def run() -> None:
        command = [sys.executable, *arguments]
        subprocess.run(command, env=environment(), check=True, capture_output=True)

    return run


def _added(times: dict[str, Times], name: str) -> Row:
    added = times[name].seconds.median - times["import torch"].seconds.median
    asked = name == "import torch, servax"
    return Row(
        what=f"`{name}`",
        against=f"`import torch` ({times['import torch'].seconds.median:.2f} s)",
        target=f"≤ {SECONDS:g} s more" if asked else "—",
        measured=f"{added:.3f} s more",
        met=added <= SECONDS if asked else None,
    )


if __name__ == "__main__":
    sys.exit(main())
