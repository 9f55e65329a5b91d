"""The command in a process of its own: real sockets, slow clients, signals."""

import json
import signal
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveate.serve.running import bound


def asked(port: int, path: str, body: bytes | None = None, kind: str = "image/png") -> dict:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": kind})
    with urllib.request.urlopen(request, timeout=1800) as response:
        return json.load(response)


def test_slow_and_broken_clients_are_left_and_a_signal_ends_it(
    start: Callable[..., Any], png: list[bytes], tmp_path: Path
):
    process, host, port = start("--limits.seconds", "3")
    slow, half, rude = (socket.create_connection((host, port)) for _ in range(3))
    slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX: ")  # and never ends its head
    half.sendall(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n1"
    )
    rude.sendall(b"\x16\x03\x01\x02\x00\x01\x00 hello, I speak TLS\r\n\r\n")
    found = asked(port, "/predict?classes=red+star,blue+ring", png[0])
    assert found["answers"][0]["label"] == "red star"
    half.settimeout(60)
    assert half.recv(4096).startswith(b"HTTP/1.1 408")
    rude.settimeout(60)
    assert rude.recv(4096).startswith(b"HTTP/1.1 400")
    slow.settimeout(60)
    assert slow.recv(4096) == b""  # hung up
    for one in (slow, half, rude):
        one.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    log = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"path": "/predict", "status": 408}.items() <= next(
        line for line in lines if line.get("status") == 408
    ).items()
    assert "star" not in log


def test_an_answer_waits_for_no_acknowledgement():
    # asyncio looks for this protocol before it turns off Nagle's algorithm: 40 ms of each answer.
    with bound("127.0.0.1", 0) as own:
        assert own.proto == socket.IPPROTO_TCP


def test_a_port_in_use_is_told_before_a_model_is_read(foveate: Callable[..., object]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = foveate("serve", "no/such/model", "--port", taken.getsockname()[1])
    assert said.code == 2
    assert "is in use: give another with --port" in said.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--host", "0.0.0.0"], "give a --token"),
        (["--host", "0.0.0.0", "--token", "short"], "shorter than 16"),
        (["--host", "not a host", "--token", "t" * 16], "no name or address"),
        (["--port", "70000"], "give 0 to 65535"),
        (["--port", "0", "--batch-size", "0"], "give 1 or more"),
        (["--port", "0", "--limits.pixels", "-1"], "give a number above 0"),
        (["no/such/model", "--port", "0"], "no such folder"),
    ],
)
def test_what_cannot_be_served_is_one_line(foveate: Callable[..., object], words: list[str], line: str):
    said = foveate("serve", *words)
    assert (said.code, line in said.err, said.err.count("\n")) == (2, True, 1), said.err
