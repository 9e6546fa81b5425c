"""The command ``serve``: a server from its first line on stdout to its end."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from providers.errors import ConfigError
from routing.logs import LOGGERS, MaskingFormatter
from sparklio import terminal
from sparklio.stopping import Stop

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from routing.settings import Settings

__all__ = ["commands"]

_EXTRA = ("fastapi", "prometheus_client", "python_multipart", "sse_starlette", "uvicorn")

commands = typer.Typer()


@commands.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Any but loopback needs SPARKLIO_API_KEYS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    mode: Annotated[Literal["mock", "live"] | None, typer.Option("--mode", help="Beats GENERATOR_MODE.")] = None,
) -> None:
    """Answer over HTTP and make the pages that are asked for there, until a signal (Ctrl-C) stops it.

    Runs that are not finished then go on at the next start.
    """
    _check_extra()
    from sparklio.server.app import create_app
    from sparklio.server.serve import allow_many_files, bind

    app = create_app(mode=mode)
    settings: Settings = app.state.settings
    _log(settings.secrets, verbose=context.find_root().params["verbose"])
    terminal.warn(settings.warnings)
    allow_many_files()
    stop = Stop(as_json=False, secrets=settings.secrets)
    with bind(host, port, keyed=bool(settings.words("SPARKLIO_API_KEYS"))) as listener:
        app.state.host_names.add(host.lower())
        try:
            with stop:
                asyncio.run(_until_stopped(app, listener, stop))
        except (KeyboardInterrupt, asyncio.CancelledError):
            if not stop.heard:
                raise


async def _until_stopped(app: FastAPI, listener: socket.socket, stop: Stop) -> None:
    from sparklio.server.serve import serving, url_of

    stop.cancel_this_task()
    async with serving(app, listener):
        _tell(url_of(listener), app.state.settings)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if task := asyncio.current_task():
            task.uncancel()  # what is closed now is closed in peace


def _tell(url: str, settings: Settings) -> None:
    keys = settings.words("SPARKLIO_API_KEYS")
    terminal.say(f"listening on {url}")
    terminal.say(f"mode:   {settings.mode}")
    terminal.say(f"data:   {settings.home}")
    terminal.say(f"keys:   {'needed, see SPARKLIO_API_KEYS' if keys else 'none needed, as only this machine is heard'}")
    sys.stdout.flush()


def _check_extra() -> None:
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the server needs packages that are not installed: {', '.join(missing)}",
            hint="pip install 'sparklio[server]'",
        )


def _log(secrets: tuple[str, ...], *, verbose: bool) -> None:
    """Warnings of whoever has some go to stderr, secrets masked; with ``-v`` all that we and uvicorn say.

    They go by the root logger, as a server's libraries speak under names of their own.
    """
    terminal.keep_secret(secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskingFormatter(secrets))
    logging.getLogger().handlers = [handler]
    if not verbose:
        handler.setLevel(logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).handlers = []
    for name in (*LOGGERS, "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.NOTSET)
