"""Work shared out among threads comes back in order, a few pieces ahead of who reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from servax.runtime.host import AHEAD, in_order


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_keep_the_order_of_the_pieces(threads: int) -> None:
    assert list(in_order(lambda n: n * n, range(50), threads=threads)) == [n * n for n in range(50)]


def test_two_threads_work_at_once() -> None:
    meeting = threading.Barrier(2, timeout=10)
    assert sorted(in_order(lambda n: meeting.wait(), range(2), threads=2)) == [0, 1]


def test_pieces_are_taken_as_they_are_needed() -> None:
    taken = []

    def pieces() -> Iterator[int]:
        for number in range(1_000):
            taken.append(number)
            yield number

    results = in_order(lambda n: n, pieces(), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 3 + 2 * AHEAD
    results.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_is_raised_in_its_turn_and_ends_the_work(threads: int) -> None:
    done = []

    def work(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        done.append(number)
        return number

    results = in_order(work, range(1_000), threads=threads)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(done) <= 5 + threads * AHEAD


def test_each_thread_begins_once() -> None:
    begun = []
    list(in_order(lambda n: n, range(20), threads=2, begin=lambda: begun.append(1)))
    assert 1 <= len(begun) <= 2
