"""The HTTP service and its page: purification and classification for other programs.

None of this loads torch: the networks live in the processes of workers (`inference`, `attacking`).
"""

from servax.service.app import build_app
from servax.service.decoding import Decoded, decode
from servax.service.dispatcher import Dispatcher
from servax.service.requests import RequestHandler
from servax.service.responses import Refusal
from servax.service.server import Endpoint, open_socket, serve, uvicorn_config
from servax.service.settings import ServiceSettings
from servax.service.telemetry import Metrics, forward_libraries, open_log
from servax.service.tokens import Tokens, read_tokens, readable_by_others

__all__ = [
    "Decoded",
    "Dispatcher",
    "Endpoint",
    "Metrics",
    "Refusal",
    "RequestHandler",
    "ServiceSettings",
    "Tokens",
    "build_app",
    "decode",
    "forward_libraries",
    "open_log",
    "open_socket",
    "read_tokens",
    "readable_by_others",
    "serve",
    "uvicorn_config",
]
