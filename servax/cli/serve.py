"""``servax serve``: purification and classification over HTTP; its process loads no torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from servax.cli.commands import part
from servax.cli.output import say
from servax.service import (
    Endpoint,
    ServiceSettings,
    Tokens,
    open_log,
    read_tokens,
    readable_by_others,
    serve,
)


@dataclass(frozen=True)
class Serve(ServiceSettings):
    """Serve purification and classification over HTTP; ends on SIGTERM or Ctrl-C.

    POST a sound to /v1/purify or /v1/classify; /healthz, /readyz, /metrics and /openapi.json tell
    the rest. Logs are JSON lines on stderr. Needs the extra serve. Options may also stand in a YAML
    file (--config FILE) or in variables (SERVAX_SERVE_WORKERS=4); the command line wins over them.
    """

    ENVIRONMENT: ClassVar[str] = "SERVAX_SERVE_"

    host: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own (127.0.0.1, ::1, localhost) needs
    --token-file or --allow-open."""
    port: int = 8000
    """Port to listen at; 0 takes any that is free and prints it."""
    token_file: str | None = None
    """File of bearer tokens, one a line of at least 16 characters; asked for by /v1 and /metrics.
    Default asks for none."""
    allow_open: bool = False
    """Listen at any host without tokens."""

    def __call__(self) -> int:
        """Serve until a signal ends it; the URL goes to stdout, logs to stderr."""
        tokens = Tokens() if self.token_file is None else read_tokens(self.token_file)
        if self.token_file is not None and readable_by_others(self.token_file):
            everybody = "can be read by everybody on this machine: chmod 600 it"
            say(f"warning: {self.token_file} {everybody}")
        endpoint = Endpoint(self.host, self.port, tokens, self.allow_open)

        serve(part(ServiceSettings, self), endpoint, open_log(), announce=_announce)
        return 0


def _announce(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
