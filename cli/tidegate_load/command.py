"""``tidegate loadgen``: from the command line to traffic, and from what came of it to figures."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import uvloop
from rich.console import Console

from tidegate_cli import terminal
from tidegate_cli.errors import CommandError
from tidegate_load import model, report, users, wire
from tidegate_load.schedule import Burst, Schedule, drawn, replayed
from tidegate_load.sender import Record, Sender
from tidegate_load.summary import summarise
from tidegate_load.users import User
from tidegate_load.wire import Script

_INTERRUPTED: Final = 130
_MOST: Final = 50_000_000
"""Requests of a run: all of them are written down before the first goes, 80 bytes each."""


def run(options: argparse.Namespace) -> int:
    """Send, show, write; the exit code.

    Raises:
        CommandError: what was asked for makes no sense, or the server does not answer.
    """
    for path in (options.json, options.plot):
        writable(path)
    everybody = users.chosen(options.users, options.user)
    schedule, everybody = scheduled(options, everybody)
    host, _, port = options.url.rpartition(":")
    sender = Sender(
        (host.strip("[]"), int(port)),
        script(options, everybody, schedule),
        schedule,
        connections=options.connections,
    )
    with report.Progress(Console(stderr=True, highlight=False), schedule) as progress:
        record = uvloop.run(_send(sender, options.drain, progress))
    summary = summarise(
        record,
        everybody,
        target=options.url,
        model=options.model,
        pattern=pattern(options),
        seed=options.seed,
    )
    report.show(terminal.console(), summary)
    if options.json:
        text = msgspec.json.format(msgspec.json.encode(summary))
        write(options.json, text + b"\n")
    if options.plot:
        from tidegate_load import plots  # noqa: PLC0415 - a second of imports

        write(options.plot, plots.drawn(options.plot.suffix, record, everybody, summary))
    return _INTERRUPTED if record.interrupted else 0


async def _send(sender: Sender, drain: float, progress: report.Progress) -> Record:
    await sender.connect()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, sender.interrupt)
    return await sender.run(drain, progress.show)


def scheduled(
    options: argparse.Namespace, everybody: tuple[User, ...]
) -> tuple[Schedule, tuple[User, ...]]:
    """The traffic that was asked for, and its users: a trace may have more.

    Raises:
        CommandError: it makes no sense.
    """
    if options.trace:
        try:
            with options.trace.open(encoding="utf-8-sig", newline="") as file:
                return replayed(file, everybody)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"the trace cannot be read: {error}") from error
    seconds, burst = options.seconds, None
    if options.pattern != "normal":
        begin = seconds * 2 / 5 if options.burst_begin is None else options.burst_begin
        if begin >= seconds:
            raise CommandError(f"the burst begins at {begin:g} s, when the run is over")
        length = options.burst_seconds or seconds / 5
        burst = Burst(begin, length, options.factor, flood=options.pattern == "flood")
    many = options.rate * (seconds + (burst.seconds * burst.factor if burst else 0.0))
    if many > _MOST:
        raise CommandError(
            f"that would be {many:,.0f} requests, and a run has {_MOST:,} at most: lower --rate or "
            "--seconds"
        )
    draw = np.random.default_rng(options.seed)
    return drawn(everybody, options.rate, seconds, burst, draw), everybody


def script(options: argparse.Namespace, everybody: Sequence[User], schedule: Schedule) -> Script:
    """The requests that were asked for, fitting the model of the server.

    Raises:
        CommandError: they do not fit, or the server does not answer.
    """
    if options.body:
        path = model.inference_path(options.model, options.version)
        return wire.script_of_body(options.url, path, everybody, schedule, _read(options.body))
    asked = model.describe(options.url, options.model, options.version)
    shapes = dict(options.shape)
    unknown = shapes.keys() - {one.name for one in asked.inputs}
    if unknown:
        known = ", ".join(one.name for one in asked.inputs)
        raise CommandError(f"the model has no input {', '.join(sorted(unknown))}; it has {known}")
    draw = np.random.default_rng(options.seed) if options.data == "random" else None
    return wire.script(options.url, asked, everybody, schedule, shapes, draw)


def pattern(options: argparse.Namespace) -> str:
    """The traffic in a few words."""
    return (
        f"trace {options.trace.name}"
        if options.trace
        else f"{options.pattern} at {options.rate:g}/s"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error


def writable(path: Path | None) -> None:
    """Refuse before the run what would be lost after it.

    Raises:
        CommandError: there can be no such file.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise CommandError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise CommandError(f"{path} cannot be written: it is a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CommandError(f"{path} cannot be written: permission denied")


def write(path: Path, content: bytes) -> None:
    """Write a result, and say so.

    Raises:
        CommandError: it cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
    sys.stderr.write(f"written: {path}\n")
