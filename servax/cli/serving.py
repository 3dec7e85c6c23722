"""Starts the service with what the command line was given."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from servax.cli.output import say
from servax.service.server import Endpoint, serve
from servax.service.settings import ServiceSettings
from servax.service.telemetry import open_log
from servax.service.tokens import Tokens, read_tokens, readable_by_others

if TYPE_CHECKING:
    from fastapi import FastAPI

    from servax.service.requests import RequestHandler


def serve_http(
    settings: ServiceSettings,
    *,
    host: str,
    port: int,
    token_file: str | None,
    allow_open: bool,
    page: bool,
) -> int:
    """Serve until a signal ends it; the URL goes to stdout, logs to stderr."""
    tokens = Tokens() if token_file is None else read_tokens(token_file)
    if token_file is not None and readable_by_others(token_file):
        say(f"warning: {token_file} can be read by everybody on this machine: chmod 600 it")
    endpoint = Endpoint(host, port, tokens, allow_open)

    def mount(app: FastAPI, handler: RequestHandler) -> None:
        package = importlib.import_module("servax.service.page")
        package.mount_page(app, handler.call, admits=tokens.know if tokens else None)

    serve(settings, endpoint, open_log(), announce=_announce, mount=mount if page else None)
    return 0


def _announce(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
