"""Logs of a command: lines for people on a terminal, JSON lines for programs elsewhere; always on stderr."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

import click

from busmesh.cli.text import printable, redact

F = TypeVar("F", bound=Callable[..., Any])
LEVELS = ("debug", "info", "warning", "error")
#: What every record has. Anything else was given by ``extra`` and belongs into the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class HumanFormatter(logging.Formatter):
    """Lines like ``12:01:07.123 INFO    authority: enrolled spiffe://local/...``, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        where = record.name.removeprefix("busmesh.")
        line = f"{time} {record.levelname:<7} {where}: {printable(record.getMessage() + extra)}"
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return redact(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what ``extra`` gave (``trace_id``)."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            **_extra(record),
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(
                "T", "milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return redact(json.dumps(fields, default=str))


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (default stderr) from ``level`` on, in place of whatever was set up before."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(HumanFormatter() if stream.isatty() else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Ours says what a lost connection means; theirs repeats it for every try, with a traceback.
    logging.getLogger("nats").setLevel(logging.DEBUG if level == "debug" else logging.CRITICAL)


def log_option(default: str = "warning") -> Callable[[F], F]:
    """Give a command ``--log-level`` and set up logging before it runs.

    Args:
        default: "info" for what runs in the foreground, "warning" for what prints and ends.
    """
    return click.option(
        "--log-level",
        envvar="BUSMESH_LOG",
        type=click.Choice(LEVELS, case_sensitive=False),
        default=default,
        show_default=True,
        expose_value=False,
        is_eager=True,
        callback=lambda ctx, param, value: set_up(value),
        help="What to log to stderr.  [env: BUSMESH_LOG]",
    )


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
