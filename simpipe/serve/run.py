"""One process that serves: the engine, the application and the port, from start to a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from simpipe.config.serve import ServeConfig
from simpipe.errors import ConfigError, SimpipeError
from simpipe.serve.access_log import AccessLog
from simpipe.serve.app import make_app
from simpipe.serve.freed import give_back
from simpipe.serve.jobs import Engine, Pictures
from simpipe.serve.metrics import Metrics
from simpipe.serve.protocol import LimitedProtocol, limited

_GRACE = 5.0  # seconds beyond the longest answer until connections are cut
_KEEP_ALIVE = 75  # seconds that a connection may be silent between requests
_TRIM = 5  # seconds between looks whether memory can be given back
_TICKS = 10  # of uvicorn's loop, a second


class _Server(uvicorn.Server):
    """Without signal handlers of its own; sweeps slow connections and shows metrics every second."""

    def __init__(self, config: uvicorn.Config, every_second: Callable[[], None]) -> None:
        super().__init__(config)
        self._every_second = every_second
        self._requests = 0  # when memory was last given back

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]  # as the base class, a generator
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    connection.sweep(now)
            self._every_second()
        state = self.server_state
        if counter % (_TRIM * _TICKS) == 0 and not state.tasks and state.total_requests != self._requests:
            self._requests = state.total_requests
            give_back()
        return await super().on_tick(counter)


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that is bound, 0: to any free port.

    Args:
      shared: other processes of this user bind the same port too.

    Raises:
      ConfigError: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: cannot listen there ({error.strerror})", "give --host and --port; 0: any port"
        ) from None
    bound.setblocking(False)
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a socket listens, as a browser wants it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    engine: Engine,
    pictures: Pictures | None,
    settings: ServeConfig,
    bound: socket.socket,
    *,
    ready: Callable[[], None],
    early: bool = True,
    parent: int | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; then finishes what is in flight, and ends the processes of engine and pictures.

    Args:
      engine, pictures: not started. bound: a socket; it is closed at the end.
      ready: called once a release answers.
      early: listen before that, and answer 503.
      parent: a file descriptor whose end says that the process that started this one is gone.

    Raises:
      SimpipeError: no release could be opened.
    """
    import uvloop

    uvloop.run(_serve(engine, pictures, settings, bound, ready, early, parent))


async def _serve(
    engine: Engine,
    pictures: Pictures | None,
    settings: ServeConfig,
    bound: socket.socket,
    ready: Callable[[], None],
    early: bool,
    parent: int | None,
) -> None:
    log, metrics = AccessLog(settings.access_log), Metrics()
    app = make_app(engine, pictures, settings, log=log, metrics=metrics)
    server = _Server(_config(app, settings), lambda: metrics.show(engine.status()))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:
        loop.add_reader(parent, stop.set)  # nothing is ever sent: it has ended
    stopped = asyncio.create_task(stop.wait())
    opening = asyncio.create_task(_start(engine, pictures))
    serving = asyncio.create_task(server.serve(sockets=[bound])) if early else None
    try:
        await _first(opening, stopped, serving)
        if opening.done():
            opening.result()
            serving = serving or asyncio.create_task(server.serve(sockets=[bound]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            gc.collect()
            gc.freeze()
            ready()
            await _first(stopped, serving)
    finally:
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError, SimpipeError):
            await opening
        if serving is not None:
            server.should_exit = True
            await serving
        stopped.cancel()
        if parent is not None:
            loop.remove_reader(parent)
        await engine.close()
        if pictures is not None:
            await pictures.close()
        log.close()


async def _first(*tasks: asyncio.Task[Any] | None) -> None:
    await asyncio.wait([task for task in tasks if task is not None], return_when=asyncio.FIRST_COMPLETED)


async def _start(engine: Engine, pictures: Pictures | None) -> None:
    if pictures is not None:
        await pictures.start()  # at once: the encoder is loaded while the release is opened
    await engine.start()


def _config(app: Any, settings: ServeConfig) -> uvicorn.Config:
    protocol = limited(read_seconds=settings.read_seconds, most_connections=settings.max_connections)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.timeout_seconds + _GRACE),
    )
