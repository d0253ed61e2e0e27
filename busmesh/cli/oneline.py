"""Telemetry for people: each message as a few lines that begin with time and instance.

Telemetry is unsigned, so nothing in a message is believed: what is missing or of another type is a "-".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from busmesh.cli.figures import milliseconds, percent, rate
from busmesh.cli.text import printable

Message = Mapping[str, Any]
_MAX_TEXT = 200
#: Lines of one message; a busy agent's metrics have up to 256 entries.
_MAX_LINES = 64


def lines_of(subject: str, message: Message, *, wide: bool = False) -> list[str]:
    """Return the lines for one message.

    Args:
        subject: ``<root>.telemetry.<signal>.<ns>.<service>.<instance>``.
        message: from anybody.
        wide: also what is idle, and identifiers.
    """
    parts = subject.split(".")
    signal, instance = (parts[-4], parts[-1]) if len(parts) > 4 else ("", "-")
    write = _WRITERS.get(signal)
    if write is None:
        return [_line(None, instance, f"{_text(signal)} {_text(message)}")]
    lines: list[str] = []
    for line in write(instance, message, wide):
        if len(lines) == _MAX_LINES:
            lines.append(_line(None, instance, "... and more; -o json shows all"))
            break
        lines.append(line)
    return lines


def _metrics(instance: str, message: Message, wide: bool) -> Iterator[str]:
    requests = _dicts(message.get("requests"))
    if not requests and wide:
        yield _line(message.get("time"), instance, "no requests")
    for entry in requests:
        service, version = _text(entry.get("destination_service")), _text(entry.get("destination_version"))
        callee = f"{service} {version}" if version not in ("-", "unknown") else service
        caller = _text(entry.get("source_service"))
        yield _line(
            message.get("time"),
            instance,
            f"{'out' if entry.get('reporter') == 'source' else 'in '} {caller} -> {callee}",
            f"[{_text(entry.get('route'))}]",
            f"{rate(_number(entry.get('rps'))) or '-'} rps",
            percent(_number(entry.get("success"))) or "-",
            *(
                f"{name} {milliseconds(_number(entry.get(f'{name}_ms'))) or '-'}"
                for name in ("p50", "p95", "p99")
            ),
            f"retries {_text(entry.get('retries'))} in flight {_text(entry.get('in_flight'))}"
            if wide
            else "",
        )


def _access(instance: str, message: Message, wide: bool) -> Iterator[str]:
    for event in _dicts(message.get("events")):
        attempts = _number(event.get("attempts"))
        flags = event.get("flags")
        yield _line(
            event.get("time"),
            instance,
            f"{_text(event.get('source_service'))} -> {_text(_callee(event))}",
            f"{_text(event.get('method'))} {_text(event['path']) if 'path' in event else ''}".rstrip(),
            _text(event.get("status")),
            milliseconds(_number(event.get("duration_ms"))) or "-",
            _text(flags) if flags else "",
            f"{attempts:.0f} tries" if attempts is not None and attempts > 1 else "",
            f"[{_text(event.get('route'))}] trace {_text(event.get('trace_id'))}" if wide else "",
        )


def _callee(event: Message) -> object:
    """Return the instance that was called, or the service if no instance was chosen."""
    return event.get("destination_instance") or event.get("destination_service")


def _events(instance: str, message: Message, wide: bool) -> Iterator[str]:
    for event in _dicts(message.get("events")):
        detail = event.get("detail")
        more = [f"{_text(k)}={_text(v)}" for k, v in detail.items()] if isinstance(detail, dict) else []
        yield _line(
            event.get("time"),
            instance,
            _text(event.get("kind")),
            _text(event.get("message")),
            *(more if wide else ()),
        )


def _traces(instance: str, message: Message, wide: bool) -> Iterator[str]:
    for resource in _dicts(message.get("resourceSpans")):
        for scope in _dicts(resource.get("scopeSpans")):
            for span in _dicts(scope.get("spans")):
                began, ended = _number(span.get("startTimeUnixNano")), _number(span.get("endTimeUnixNano"))
                took = None if began is None or ended is None else (ended - began) / 1e6
                yield _line(
                    None if began is None else began / 1e9,
                    instance,
                    {2: "server", 3: "client"}.get(_kind(span.get("kind")), "span"),
                    _text(span.get("name")),
                    _attribute(span, "http.response.status_code"),
                    milliseconds(took) or "-",
                    f"trace {_text(span.get('traceId'))}",
                    f"span {_text(span.get('spanId'))}" if wide else "",
                )


_WRITERS: Mapping[str, Callable[[str, Message, bool], Iterator[str]]] = {
    "metrics": _metrics,
    "access": _access,
    "events": _events,
    "traces": _traces,
}


def _line(time: object, instance: str, *parts: str) -> str:
    return "  ".join([_clock(time), _text(instance), *filter(None, parts)])


def _clock(time: object) -> str:
    """Write RFC 3339 or unix seconds as the time of day here."""
    try:
        if isinstance(time, str):
            moment = datetime.fromisoformat(time)
        else:
            moment = datetime.fromtimestamp(float(time), UTC)  # type: ignore[arg-type]  # refused below
        return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (TypeError, ValueError, OverflowError, OSError):
        return "--:--:--.---"


def _text(value: object) -> str:
    text = printable(str(value)[:_MAX_TEXT])
    return "-" if value is None or not text else text


def _number(value: object) -> float | None:
    """Return a number, also one in a string: OTLP/JSON writes 64-bit integers so."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 40:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e24 else None


def _dicts(value: object) -> list[Message]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _kind(value: object) -> int:
    return value if isinstance(value, int) else 0


def _attribute(span: Message, key: str) -> str:
    for attribute in _dicts(span.get("attributes")):
        value = attribute.get("value")
        if attribute.get("key") == key and isinstance(value, dict) and value:
            return _text(next(iter(value.values())))
    return ""
