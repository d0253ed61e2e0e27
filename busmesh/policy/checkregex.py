"""Regular expressions that are too large to look at a long text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from busmesh.policy.documents import Document
from busmesh.policy.fields import StringMatch
from busmesh.policy.ratelimit import LimitSpec, RateLimitSpec
from busmesh.policy.regex import longest_text
from busmesh.policy.route import HttpRoute, RequestMatch, RouteSpec
from busmesh.yamlfile import Finding, Path

#: Bytes: hardly a path or a header is longer.
WORTH_A_WORD = 4096
_HINT = "shorten its literals and counted repetitions, or use prefix"


def short_sighted(document: Document, spec: RouteSpec | RateLimitSpec) -> Iterator[Finding]:
    """Yield a doubt for each regex that is too large to look at every text of 8 KiB.

    Whoever writes it should know: nothing else tells why a rule does not apply to a long value.
    """
    for path, pattern, otherwise in _patterns(spec):
        longest = longest_text(pattern)
        if longest < WORTH_A_WORD:
            message = f"this regex is too large to look at more than {longest} bytes: {otherwise}"
            yield document.finding("BM2151", message, path, level="warning", hint=_HINT)


def _patterns(spec: RouteSpec | RateLimitSpec) -> Iterator[tuple[Path, str, str]]:
    """Yield each regex, where it stands, and what becomes of a request with a longer value."""
    parts: Sequence[HttpRoute | LimitSpec] = spec.http if isinstance(spec, RouteSpec) else spec.limits
    name, applies = ("http", "rule") if isinstance(spec, RouteSpec) else ("limits", "limit")
    for index, part in enumerate(parts):
        for number, entry in enumerate(part.match):
            for field, value in _compared(entry):
                if value.regex is not None:
                    path: Path = ("spec", name, index, "match", number, *field, "regex")
                    yield path, value.regex, f"the {applies} does not apply to a longer value"
    if isinstance(spec, RouteSpec):
        for index, rule in enumerate(spec.http):
            if rule.rewrite is not None and rule.rewrite.uri_regex_rewrite is not None:
                path = ("spec", "http", index, "rewrite", "uriRegexRewrite", "match")
                yield path, rule.rewrite.uri_regex_rewrite.match, "a longer path is answered with 400"


def _compared(entry: RequestMatch) -> Iterator[tuple[Path, StringMatch]]:
    for field, value in (("uri", entry.uri), ("method", entry.method), ("authority", entry.authority)):
        if value is not None:
            yield (field,), value
    for field, values in (
        ("headers", entry.headers),
        ("withoutHeaders", entry.without_headers),
        ("queryParams", entry.query_params),
    ):
        for name, value in values.items():
            yield (field, name), value
