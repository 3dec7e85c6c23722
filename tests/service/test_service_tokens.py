"""Tokens, and where a service without any may listen."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from service_running import Running

from servax.errors import PathError, SettingError
from servax.service import (
    Endpoint,
    ServiceSettings,
    Tokens,
    open_socket,
    read_tokens,
    readable_by_others,
)

TOKEN, OTHER = "0123456789abcdef", "a-second-token/+~=."


def test_tokens_guard_sounds_and_metrics_and_nothing_else() -> None:
    # No worker is needed to refuse: its networks are missing, and nothing waits for them.
    with Running(
        ServiceSettings(purifier="none/such", workers=1), Tokens([TOKEN, OTHER])
    ) as service:
        for header in (
            None,
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Basic {TOKEN}",
            f"Bearer {TOKEN[:-1]}",
        ):
            given = {} if header is None else {"Authorization": header}
            for method, path in (
                ("POST", "/v1/purify"),
                ("POST", "/v1/classify"),
                ("GET", "/v1/models"),
                ("GET", "/metrics"),
            ):
                answer = service.client.request(method, path, headers=given)
                assert answer.status_code == 401, (header, path)
                assert answer.json()["error"]["code"] == "unauthorised"
                assert answer.headers["www-authenticate"] == "Bearer"
        for token in (TOKEN, OTHER):
            known = {"Authorization": f"bearer {token}"}
            assert service.client.get("/metrics", headers=known).status_code == 200
            assert service.post("/v1/purify", b"", **known).status_code == 422
        assert service.client.get("/healthz").status_code == 200
        assert service.client.get("/readyz").status_code == 503
        document = service.client.get("/openapi.json").json()
        assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert document["paths"]["/v1/purify"]["post"]["security"] == [{"HTTPBearer": []}]
        # Attacks are off unless the page is asked for, and so is the page.
        assert service.post("/v1/attack", b"", **known).status_code == 404
        assert service.client.get("/page/").status_code == 404
        assert "/v1/attack" not in document["paths"]
        assert TOKEN not in service.log.getvalue()


def test_a_token_is_known_as_a_whole() -> None:
    tokens = Tokens([TOKEN])
    assert tokens.know(TOKEN)
    for wrong in ("", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "\udcff", "é" * 16):
        assert not tokens.know(wrong)


def test_a_token_file_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# for the pipeline\n{TOKEN}\n\n  {OTHER}  \n")
    tokens = read_tokens(file)
    assert tokens.know(TOKEN)
    assert tokens.know(OTHER)
    assert not tokens.know("# for the pipeline")
    file.chmod(0o644)
    assert readable_by_others(file)
    file.chmod(0o600)
    assert not readable_by_others(file)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no token"),
        (b"# nothing\n", "holds no token"),
        (b"short\n", "line 1 is no token: expected at least 16 characters"),
        (TOKEN.encode() + b"\nwith a space in it\n", "line 2 is no token"),
        (b"\xff\xfe" * 20, "is no text"),
        (b"a" * (2**20 + 1), "is larger than 1048576 bytes"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_token_file_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PathError, match=sentence) as refused:
        read_tokens(file)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    assert Endpoint(host).address()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_others_are_let_in_only_by_token_or_by_word(host: str) -> None:
    with pytest.raises(SettingError, match="--token-file FILE, or --allow-open"):
        open_socket(Endpoint(host, 0))
    assert Endpoint(host, tokens=Tokens([TOKEN])).address() == host
    assert Endpoint(host, allow_open=True).address() == host


def test_a_place_that_cannot_be_listened_at_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingError, match=f"port is {port}, expected one that can be listened"
        ):
            open_socket(Endpoint(port=port))
    with pytest.raises(SettingError, match="port is 70000, expected a number from 0 to 65535"):
        Endpoint(port=70_000)
    with pytest.raises(SettingError, match="an address or a name of this machine"):
        open_socket(Endpoint("a..b", 0))
