"""What a request is refused with: an HTTP status, a word for programs and a sentence for people."""

from __future__ import annotations

from servax.errors import ServaxError


class Refusal(ServaxError):  # noqa: N818 - what was done, not what was wrong
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

    @property
    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that belong to the answer."""
        return {}


class Later(Refusal):
    """A request that may be sent again after a while.

    Args:
        status: 429 or 503.
        code: As in `Refusal`.
        sentence: As in `Refusal`.
        seconds: When to try again.
    """

    def __init__(self, status: int, code: str, sentence: str, seconds: int = 1) -> None:
        super().__init__(status, code, sentence)
        self.seconds = seconds

    @property
    def headers(self) -> dict[str, str]:
        """Return Retry-After."""
        return {"Retry-After": str(self.seconds)}


class Unauthorised(Refusal):
    """A request without a token that the service knows."""

    def __init__(self) -> None:
        super().__init__(
            401,
            "unauthorised",
            "A bearer token is needed, in the header 'Authorization: Bearer TOKEN'; none was "
            "given, or one that this service does not know.",
        )

    @property
    def headers(self) -> dict[str, str]:
        """Return the scheme that is asked for."""
        return {"WWW-Authenticate": "Bearer"}


class ClientGone(Exception):  # noqa: N818 - nobody is left to refuse
    """The connection was closed before the answer: nothing is sent."""
