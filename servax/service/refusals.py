"""What a request is refused with: an HTTP status, a word for programs and a sentence for people."""

from __future__ import annotations

from servax.errors import ServaxError


class Refusal(ServaxError):
    """A request that is answered, but not with what it asked for.

    Args:
        status: HTTP status code of the answer, 400 to 599.
        code: One word for programs, such as ``too_long``; it never changes for a cause.
        sentence: What was given, what was expected and what to do; it names no path of this
            machine.
    """

    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code

    def __reduce__(self) -> tuple[type[Refusal], tuple[int, str, str]]:
        # Workers are processes: what they raise is pickled on its way back.
        return type(self), (self.status, self.code, str(self))
