"""``servax serve``: the HTTP service."""

from __future__ import annotations

from servax.pretrained import PURIFIER, RECOGNISER


def serve(
    model: str = RECOGNISER,
    purifier: str = PURIFIER,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | None = None,
    allow_open: bool = False,
    workers: int | None = None,
    queue: int = 64,
    batch: int = 8,
    batch_wait: float = 2.0,
    deadline: float = 30.0,
    body_timeout: float = 20.0,
    work_seconds: float = 20.0,
    shutdown_seconds: float = 30.0,
    max_bytes: int = 20_971_520,
    max_seconds: float = 120.0,
    max_channels: int = 2,
    decode_seconds: float = 5.0,
    page: bool = False,
) -> int:
    """Serve purification and classification over HTTP; ends on SIGTERM or Ctrl-C.

    POST a sound to /v1/purify or /v1/classify; /healthz, /readyz, /metrics and /openapi.json tell
    the rest. Logs are JSON lines on stderr. Needs pip install 'servax[serve]'.

    Args:
        model: Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0: not for
            commercial use).
        purifier: Folder of a purifier, or a packaged one (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a
            Hugging Face hub id; trained on the log-Mel and scale of the recogniser.
        host: Address to listen at. Any but this machine's own (127.0.0.1, ::1, localhost) needs
            --token-file or --allow-open.
        port: Port to listen at; 0 takes any that is free and prints it.
        token_file: File of bearer tokens, one a line of at least 16 characters; asked for by /v1
            and /metrics. Default asks for none.
        allow_open: Listen at any host without tokens.
        workers: Processes that decode and compute, of one thread each; default one for each CPU.
        queue: Requests accepted and not yet answered; the next gets 429.
        batch: Sounds classified at once.
        batch_wait: How long a sound to classify waits for others, in milliseconds.
        deadline: From the acceptance of a request to its answer, in seconds; then 504.
        body_timeout: For the body of a request to arrive, in seconds; then 408.
        work_seconds: After which a worker at one batch is taken for hung and killed.
        shutdown_seconds: For what was accepted, when the service ends.
        max_bytes: Size of a body.
        max_seconds: How long a sound may play; 12 million samples of all channels bound it too.
        max_channels: Channels of a sound; each is purified on its own.
        decode_seconds: How long decoding a sound may take.
        page: Also serve the page to try attacks on (pip install 'servax[demo]').
    """
    from servax.cli.serving import serve_http
    from servax.runtime.sharing import cpus
    from servax.service.settings import Limits, ServiceSettings

    settings = ServiceSettings(
        purifier=purifier,
        recogniser=model,
        workers=cpus() if workers is None else workers,
        queue=queue,
        batch=batch,
        batch_wait_ms=batch_wait,
        deadline_seconds=deadline,
        body_seconds=body_timeout,
        work_seconds=work_seconds,
        shutdown_seconds=shutdown_seconds,
        limits=Limits(max_bytes, max_seconds, max_channels, decode_seconds),
    )
    return serve_http(
        settings, host=host, port=port, token_file=token_file, allow_open=allow_open, page=page
    )
