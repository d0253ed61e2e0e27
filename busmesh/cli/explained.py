"""What the policies make of a request, written for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from busmesh.cli.output import Column, Output, show
from busmesh.cli.text import printable
from busmesh.decide.breaker import BreakerPolicy
from busmesh.decide.budget import RetryBudget
from busmesh.decide.concurrency import AdaptiveConcurrency
from busmesh.decide.ejection import OutlierDetection
from busmesh.decide.fault import Fault
from busmesh.decide.retry import DEFAULT_RETRIES
from busmesh.policy.explainsettings import plainly

_VERDICTS = {"taken": "green", "does not match": "red", "matches": "dim"}
_RULES = (
    Column("#", "index", right=True),
    Column("RULE", "rule"),
    Column("VERDICT", "verdict", style=lambda row: _VERDICTS[row["verdict"]]),
    Column("WHY", lambda row: " / ".join(row["why"]), wrap=True),
)
_SPLIT = (
    Column("DESTINATION", "destination"),
    Column("WEIGHT", "weight", right=True),
    Column("SHARE", lambda row: f"{row['percent']:g}%", right=True),
    Column("BALANCER", "balancer"),
    Column("SETTINGS", lambda row: "; ".join(_settings(row)), wrap=True),
)
_INSTANCES = (
    Column("DESTINATION", "destination"),
    Column("INSTANCE", "instance"),
    Column("WEIGHT", "weight", right=True),
    Column("LOCALITY", "locality"),
    Column("STATE", "state"),
    Column("SHARE", lambda row: f"{row['share']:g}%", right=True),
    Column("WHY", "why", wrap=True),
)
#: What a rule without a timeout means.
_DEFAULT_TIMEOUT = "15s, the default"
#: What settings are unless a document says otherwise: people are shown what does.
_DEFAULTS: Mapping[str, Any] = {
    name: plainly(settings)
    for name, settings in {
        "retries": DEFAULT_RETRIES,
        "fault": Fault(),
        "retry_budget": RetryBudget(),
        "breaker": BreakerPolicy(),
        "instance_breaker": BreakerPolicy(),
        "outlier_detection": OutlierDetection(),
        "adaptive_concurrency": AdaptiveConcurrency(),
    }.items()
}


def tell(found: Mapping[str, Any], *, instances: bool = True) -> None:
    """Print an explanation as text and tables.

    Args:
        found: what `busmesh.policy.explain.explain` returned.
        instances: list those of each destination, as announced.
    """
    request, caller = found["request"], found["caller"]
    _say(f"{caller['service']} -> {request['service']}: {request['method']} {request['target']}")
    _say(f"by revision {found['revision']}" if found["revision"] else "by these documents alone")
    document = found["document"]
    _say(f"\nrules of {_named(document)}" if document else "\nno Route speaks for this service")
    show(found["rules"], _RULES, Output.TABLE)
    taken = found["taken"]
    if taken is None:
        _say("\nno rule matches: the caller gets 404, no_route")
        return
    _say(f"\nrule {taken['rule']}")
    for line in _of_rule(taken):
        _say(f"  {line}")
    by_name = {row["destination"]: row for row in found["destinations"]}
    shares = [{**by_name[part["destination"]], **part} for part in taken["split"]]
    if shares:
        _say("")
        show(shares, _SPLIT, Output.TABLE)
    rows = [
        {"destination": name, **one}
        for name, destination in by_name.items()
        for one in destination["instances"]
    ]
    if rows and instances:
        _say("")
        show(rows, _INSTANCES, Output.TABLE)
        _say(f"\nnot in here: {found['not_known']}")


def _say(line: str) -> None:
    click.echo("\n".join(printable(part) for part in line.split("\n")))


def _named(document: Mapping[str, Any]) -> str:
    revision = document["revision"]
    return str(document["name"]) + (f", put by revision {revision}" if revision else "")


def _of_rule(taken: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a rule does to a request."""
    timeout = taken["timeout_s"]
    yield f"timeout   {_DEFAULT_TIMEOUT if timeout is None else f'{timeout:g}s'}"
    attempts = taken["retries"]["attempts"]
    told = _told("retries", {**taken["retries"], "attempts": None})
    yield f"retries   {attempts}{f', {told}' if told else ''}"
    if taken["fault"]:
        yield f"fault     {_told('fault', taken['fault'])}"
    if taken["answer"]:
        yield f"answers   {_pairs(taken['answer'])}"
    if taken["rewritten_to"]:
        yield f"rewritten to {taken['rewritten_to']}"
    for mirror in taken["mirrors"]:
        yield f"copied    {mirror['percent']:g}% to {mirror['destination']}"
    if taken["goes_to"]:
        yield f"whose it is decides: always to {taken['goes_to']}"
    elif taken["split_by_owner"]:
        yield "whose it is would decide; this request does not say"


def _settings(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what Destinations and RateLimits say of a destination."""
    if row["document"]:
        yield str(row["document"]["name"])
    if row["limits"]:
        yield f"limits: {_pairs(row['limits'])}"
    for name in ("retry_budget", "breaker", "instance_breaker", "outlier_detection", "adaptive_concurrency"):
        if row[name]:
            yield f"{name}: {_told(name, row[name]) or 'as by default'}"
    for limit in row["rate_limits"]:
        if limit["applies"]:
            only = "" if limit["enforcing"] else ", only counted"
            yield f"rate limit {limit['limit']}: {limit['per_second']:g}/s, burst {limit['burst']:g}{only}"
    if row["hashed_to"]:
        yield f"hashed to {row['hashed_to']}"


def _told(name: str, settings: Mapping[str, Any]) -> str:
    """Write those of the settings called ``name`` that are not the default ones."""
    defaults = _DEFAULTS[name]
    return _pairs({key: value for key, value in settings.items() if value != defaults.get(key)})


def _pairs(settings: Mapping[str, Any]) -> str:
    """Write settings as ``name=value``, without those that are off."""
    return ", ".join(
        f"{name}={_value(value)}" for name, value in settings.items() if value not in (None, False, 0, "", [])
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "+".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
