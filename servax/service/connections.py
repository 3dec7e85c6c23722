"""Ends connections that hold a place and ask for nothing.

uvicorn waits for ever for the headers of a request, and takes any number of connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from servax.runtime.extras import load_extra

IDLE_SECONDS = 10.0
"""A connection between requests, or whose headers are incomplete, ends after once to twice this."""
MOST = 1_000
"""Connections at once; the next is closed unheard."""


def patient_protocol(idle_seconds: float = IDLE_SECONDS, most: int = MOST) -> Any:
    """Return uvicorn's protocol (h11) with an end to its patience.

    Args:
        idle_seconds: Between two looks at a connection; idle at both means its end.
        most: Connections at once.

    Raises:
        ServaxError: uvicorn is not installed.
    """
    load_extra("uvicorn", extra="serve", what="servax serve")
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        _look: asyncio.TimerHandle | None = None
        _seen: object = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
                return
            self._look = self.loop.call_later(idle_seconds, self._end_if_idle)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._look is not None:
                self._look.cancel()
            super().connection_lost(exc)

        def _end_if_idle(self) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self.cycle is self._seen:
                self.transport.close()
                return
            self._seen = self.cycle
            self._look = self.loop.call_later(idle_seconds, self._end_if_idle)

    return PatientProtocol
