"""Write the tables of docs/benchmark.md from the entries in results/benchmark/.

python research/benchmark_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from servax.benchmark import read_all
from servax.benchmark.page import rewrite
from servax.errors import ServaxError

PAGE = Path("docs/benchmark.md")
RESULTS = Path("results/benchmark")


def main() -> None:
    """Rewrite the part between the markers."""
    changed = rewrite(PAGE, read_all(RESULTS))
    print(f"{PAGE}: {'written' if changed else 'is as the entries say'}")


if __name__ == "__main__":
    try:
        main()
    except ServaxError as error:
        sys.exit(str(error))
