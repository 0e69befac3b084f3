"""A real `simpipe serve` in processes of its own, and raw connections to it, for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WAIT = 60.0  # seconds for what must happen


@dataclass
class Served:
    """A server that answers. `lines`: of its stderr, complete once it has ended."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    host: str = "127.0.0.1"
    ended: bool = field(default=False, init=False)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), WAIT)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request on a connection of its own: status and JSON."""
        with self.connect() as connection:
            connection.sendall(request_of(method, path, body, connection="close", **headers))
            (answer,) = answers_in(read_all(connection))
            return answer

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it; the exit code. Fails where one of its processes is left."""
        self.process.send_signal(number)
        code = self.process.wait(WAIT)
        self.ended = True
        left = time.monotonic() + 5.0
        while processes_of(self.process.pid) and time.monotonic() < left:  # the resource tracker takes a moment
            time.sleep(0.05)
        assert not processes_of(self.process.pid)
        return code

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def start(root: Path, log: Path, **settings: Any) -> Served:
    """Starts a server on a free port, and waits until it says that it answers."""
    command = [sys.executable, "-m", "simpipe.cli", "serve", str(root), "--port", "0"]
    command += [word for name, value in settings.items() for word in ("--set", f"serve.{name}={json.dumps(value)}")]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stderr=sink, start_new_session=True, cwd=Path(__file__).parent.parent)
    until = time.monotonic() + WAIT
    while (said := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)
    return Served(process, int(said[1]), log)


def stop(served: Served) -> None:
    """Ends what a test left."""
    if not served.ended:
        served.process.terminate()
        try:
            served.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(served.process.pid, signal.SIGKILL)
            served.process.wait()


def processes_of(session: int) -> list[int]:
    """Processes of a session that live."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, _, _, own = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[:4]
            except (OSError, ValueError):
                continue
            if int(own) == session and state != "Z":
                found.append(int(name))
    return found


def request_of(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A request as it is sent. `body`: bytes, or what is sent as JSON."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines += [f"content-length: {len(content)}"] if content or method == "POST" else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def answers_in(data: bytes) -> list[tuple[int, Any]]:
    """Status and JSON of each answer in what came."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]  # every answer has one
        found.append((int(head.split()[1]), json.loads(data[:length])))
        data = data[length:]
    return found
