"""A server with the page and networks in its own process; prints the address it listens on.

python tests/service_page/serving.py [PASSWORD]
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI

from servax.service.inference import Models
from servax.service.page import mount_page


def main() -> None:
    torch.set_num_threads(1)
    models = Models.load("ssad-plus-synthetic", "crnn-synthetic")

    async def run(function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, models, *arguments)

    app = FastAPI(redirect_slashes=False)
    password = sys.argv[1] if sys.argv[1:] else None
    admits = None if password is None else password.__eq__
    folder = mount_page(app, run, admits=admits)
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]} {folder}\n")
    sys.stdout.flush()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
