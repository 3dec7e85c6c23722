"""``servax serve``: purification and classification over HTTP; its process loads no torch."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from servax.cli.output import say
from servax.pretrained import PURIFIER, RECOGNISER


@dataclass(frozen=True)
class Serve:
    """Serve purification and classification over HTTP; ends on SIGTERM or Ctrl-C.

    POST a sound to /v1/purify or /v1/classify; /healthz, /readyz, /metrics and /openapi.json tell
    the rest. Logs are JSON lines on stderr. Needs pip install 'servax[serve]'.
    """

    model: str = RECOGNISER
    """Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0: not for commercial
    use)."""
    purifier: str = PURIFIER
    """Folder of a purifier, or a packaged one (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a Hugging
    Face hub id; trained on the log-Mel and scale of the recogniser."""
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
    workers: int | None = None
    """Processes that decode and compute, of one thread each; default one for each CPU."""
    queue: int = 64
    """Requests accepted and not yet answered; the next gets 429."""
    batch: int = 8
    """Sounds classified at once."""
    batch_wait: float = 2.0
    """How long a sound to classify waits for others, in milliseconds."""
    deadline: float = 30.0
    """From the acceptance of a request to its answer, in seconds; then 504."""
    body_timeout: float = 20.0
    """For the body of a request to arrive, in seconds; then 408."""
    work_seconds: float = 20.0
    """After which a worker at one batch is taken for hung and killed."""
    shutdown_seconds: float = 30.0
    """For what was accepted, when the service ends."""
    max_bytes: int = 20_971_520
    """Size of a body."""
    max_seconds: float = 120.0
    """How long a sound may play; 12 million samples of all channels bound it too."""
    max_channels: int = 2
    """Channels of a sound; each is purified on its own."""
    decode_seconds: float = 5.0
    """How long decoding a sound may take."""
    page: bool = False
    """Also serve the page to try attacks on (pip install 'servax[demo]')."""

    def __call__(self) -> int:
        """Serve until a signal ends it; the URL goes to stdout, logs to stderr."""
        from servax.runtime.sharing import cpus
        from servax.service import (
            Endpoint,
            Limits,
            ServiceSettings,
            Tokens,
            open_log,
            read_tokens,
            readable_by_others,
            serve,
        )

        settings = ServiceSettings(
            purifier=self.purifier,
            recogniser=self.model,
            workers=cpus() if self.workers is None else self.workers,
            queue=self.queue,
            batch=self.batch,
            batch_wait_ms=self.batch_wait,
            deadline_seconds=self.deadline,
            body_seconds=self.body_timeout,
            work_seconds=self.work_seconds,
            shutdown_seconds=self.shutdown_seconds,
            limits=Limits(self.max_bytes, self.max_seconds, self.max_channels, self.decode_seconds),
        )
        tokens = Tokens() if self.token_file is None else read_tokens(self.token_file)
        if self.token_file is not None and readable_by_others(self.token_file):
            everybody = "can be read by everybody on this machine: chmod 600 it"
            say(f"warning: {self.token_file} {everybody}")
        endpoint = Endpoint(self.host, self.port, tokens, self.allow_open)

        def mount(app: Any, handler: Any) -> None:
            package = importlib.import_module("servax.service.page")
            package.mount_page(app, handler.call, admits=tokens.know if tokens else None)

        serve(
            settings, endpoint, open_log(), announce=_announce, mount=mount if self.page else None
        )
        return 0


def _announce(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
