"""The retries of a rule: Istio's HTTPRetry, and the words that its ``retryOn`` knows.

What the mesh does without being asked stands in ``decide/retry.py``; a document can add to it, or switch
all of it off by ``attempts: 0``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from busmesh.decide.retry import BASE_BACKOFF_S, DEFAULT_ATTEMPTS, NO_RETRIES, RetryPolicy
from busmesh.policy.fields import Duration, Model, refused, seconds
from busmesh.yamlfile import nearest, shorten

#: Istio's default since 1.24, which no longer has 503 in it.
DEFAULT_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled"
#: Word -> the statuses of responses that are tried again.
STATUSES = {"5xx": range(500, 600), "gateway-error": range(502, 505), "retriable-4xx": range(409, 410)}
#: Word -> gRPC's number for it.
GRPC_STATUSES = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}
#: Words by which also a request that is not idempotent is tried again when no answer came. Envoy takes a
#: response that never comes for a 5xx and a gateway error.
UNKNOWN_OUTCOMES = ("reset", "5xx", "gateway-error")
#: Words for tries that were not processed, which are made again anyway; the last one announces numbers.
ALWAYS = ("connect-failure", "refused-stream", "reset-before-request", "retriable-status-codes")
RATE_LIMITED = "envoy-ratelimited"
#: Words of Envoy that are not supported, and what to do instead.
_NOT_YET = {"retriable-headers": "name statuses", "http3-post-connect-failure": "remove it: no hop is HTTP/3"}
WORDS = (*STATUSES, "reset", *ALWAYS, *GRPC_STATUSES, RATE_LIMITED)
_STATUS = re.compile(r"[2-5][0-9][0-9]")


def retry_words(retry_on: str) -> Iterator[str]:
    """Yield the words of a ``retryOn``; empty ones mean nothing, as in Istio."""
    return filter(None, (word.strip() for word in retry_on.split(",")))


def _retry_on(text: str) -> str:
    if len(text) > 1024:
        raise refused("BM1245", "retryOn is longer than 1024 characters")
    for word in retry_words(text):
        if hint := _NOT_YET.get(word):
            raise refused("BM1364", f"{word} is not supported yet", hint)
        if word not in WORDS and not _STATUS.fullmatch(word):
            guess = nearest(word, WORDS)
            hint = (
                f"did you mean {guess}?" if guess else f"known: {', '.join(WORDS)}, and statuses such as 503"
            )
            raise refused("BM1245", f"{shorten(word)!r} is no reason to retry", hint)
    return text


class HttpRetries(Model):
    """What happens when a try does not end well."""

    attempts: int = Field(
        DEFAULT_ATTEMPTS,
        ge=0,
        le=100,
        description="Retries that may follow the first try; 0 switches all off.",
    )
    per_try_timeout: Duration | None = Field(
        None,
        alias="perTryTimeout",
        description="For each try, the first included, until its response begins. The request's own timeout"
        " holds beside it.",
    )
    retry_on: Annotated[str, AfterValidator(_retry_on)] = Field(
        "",
        alias="retryOn",
        description=f"Comma-separated: {', '.join(WORDS)}, and statuses such as 503."
        f" Default: {DEFAULT_RETRY_ON}.",
    )
    retry_remote_localities: bool | None = Field(
        None, alias="retryRemoteLocalities", description="Whether a retry may leave the locality."
    )
    retry_ignore_previous_hosts: bool | None = Field(
        None,
        alias="retryIgnorePreviousHosts",
        description="Whether a retry avoids the instances that were tried. Default: true.",
    )
    backoff: Duration | None = Field(
        None,
        description="The base of the pause before a retry: at most 1, 3, 7, then 10 times this, by chance."
        " Default: 25ms.",
    )

    @property
    def hedges(self) -> bool:
        """Whether the next try runs beside one whose time is up."""
        return False

    def compiled(self) -> RetryPolicy:
        """Return what the request path asks."""
        if self.attempts == 0:
            return NO_RETRIES
        words = list(retry_words(self.retry_on or DEFAULT_RETRY_ON))
        statuses = [status for word in words for status in STATUSES.get(word, ())]
        return RetryPolicy(
            attempts=self.attempts,
            per_try_timeout=(seconds(self.per_try_timeout) or None) if self.per_try_timeout else None,
            statuses=frozenset(statuses + [int(word) for word in words if word.isdigit()]),
            grpc_statuses=frozenset(GRPC_STATUSES[word] for word in words if word in GRPC_STATUSES),
            unknown=any(word in UNKNOWN_OUTCOMES for word in words),
            rate_limited=RATE_LIMITED in words,
            ignore_previous=self.retry_ignore_previous_hosts is not False,
            remote_localities=self.retry_remote_localities is True,
            base_backoff=BASE_BACKOFF_S if self.backoff is None else seconds(self.backoff),
            hedge=self.hedges,
        )


class Retries(HttpRetries):
    """As Istio's, and hedging as Envoy has it."""

    hedge_on_per_try_timeout: bool = Field(
        False,
        alias="hedgeOnPerTryTimeout",
        description="When perTryTimeout is over, begin the next try and let the first one go on: the first"
        " response counts. Also a request that is not idempotent is then sent twice.",
    )

    @property
    def hedges(self) -> bool:
        return self.hedge_on_per_try_timeout

    @model_validator(mode="after")
    def _has_a_time(self) -> Retries:
        timeout = self.per_try_timeout
        if self.hedge_on_per_try_timeout and not (timeout and seconds(timeout) and self.attempts):
            hint = "set it, and attempts above 0"
            raise refused("BM1246", "hedgeOnPerTryTimeout without perTryTimeout never happens", hint)
        return self
