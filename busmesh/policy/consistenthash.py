"""``consistentHash`` and ``stickySession`` of a load balancer: what belongs together stays together."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from busmesh.decide.affinity import Cookie
from busmesh.decide.balance import HashSpec
from busmesh.decide.balance.maglev import DEFAULT_TABLE_SIZE
from busmesh.decide.balance.ring import DEFAULT_RING_SIZE
from busmesh.decide.hashkey import HashKey
from busmesh.decide.sticky import StickySession
from busmesh.policy.fields import LongDuration, MatchedHeader, Model, WrittenHeader, refused, seconds
from busmesh.yamlfile import shorten

_COOKIE_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # a token, RFC 6265 section 4.1.1
_COOKIE_PATH = re.compile(r"/[!-:<-~]{0,511}")
LARGEST_TABLE = 65537


def _cookie_name(text: str) -> str:
    if not _COOKIE_NAME.fullmatch(text):
        raise refused("BM1262", f"{shorten(text)!r} is not the name of a cookie", "use A-Z a-z 0-9 - _ .")
    return text


def _cookie_path(text: str) -> str:
    if not _COOKIE_PATH.fullmatch(text):
        raise refused("BM1262", f"{shorten(text)!r} is not the path of a cookie", "begin with '/', no ';'")
    return text


def _prime(number: int) -> int:
    if any(number % factor == 0 for factor in range(2, int(number**0.5) + 1)):
        raise refused("BM1268", f"{number} is not a prime number", f"{DEFAULT_TABLE_SIZE} and 65537 are")
    return number


CookieName = Annotated[str, AfterValidator(_cookie_name)]
CookiePath = Annotated[str, AfterValidator(_cookie_path)]
#: The range is looked at first: whether a number of 64 bits is a prime takes a minute.
TableSize = Annotated[int, Field(ge=1009, le=LARGEST_TABLE), AfterValidator(_prime)]


class HttpCookie(Model):
    """A cookie that says where a request belongs."""

    name: CookieName
    path: CookiePath | None = Field(None, description="Path of the cookie that the agent sets.")
    ttl: LongDuration | None = Field(
        None, description="How long a cookie that the agent sets is kept; 0s: until the client ends."
    )

    def as_cookie(self, *, without_ttl: float | None = None) -> Cookie:
        ttl = without_ttl if self.ttl is None else seconds(self.ttl)
        return Cookie(self.name, self.path or "", ttl)


class RingHash(Model):
    """Points of each instance on a ring."""

    minimum_ring_size: int = Field(
        DEFAULT_RING_SIZE,
        alias="minimumRingSize",
        ge=1,
        le=65536,
        description="Four instances of weight 100 have so many points. More: more even, and slower changes.",
    )


class Maglev(Model):
    """A table with the same number of places for each instance."""

    table_size: TableSize = Field(
        DEFAULT_TABLE_SIZE,
        alias="tableSize",
        description="A prime, 100 times the number of instances or more. Each change of the instances costs"
        " 10 ms per 16381 (Istio's default is 65537).",
    )


class ConsistentHash(Model):
    """Requests with the same key go to the same instance."""

    http_header_name: MatchedHeader | None = Field(None, alias="httpHeaderName")
    http_cookie: HttpCookie | None = Field(
        None, alias="httpCookie", description="With ttl, a request without the cookie gets a new one."
    )
    use_source_ip: bool = Field(
        False,
        alias="useSourceIp",
        description="As caller: instance. In the mesh a request comes from the application beside the agent.",
    )
    http_query_parameter_name: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, alias="httpQueryParameterName", description="Not percent-decoded."
    )
    caller: Literal["instance", "service"] | None = Field(
        None, description="All requests of one calling instance, or service, go to the same instance."
    )
    ring_hash: RingHash | None = Field(None, alias="ringHash", description="The default.")
    maglev: Maglev | None = None
    minimum_ring_size: int | None = Field(
        None, alias="minimumRingSize", ge=1, le=65536, description="The old place of ringHash's."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> ConsistentHash:
        keys = (self.http_header_name, self.http_cookie, self.http_query_parameter_name, self.caller)
        if len([key for key in keys if key is not None]) + self.use_source_ip != 1:
            hint = "httpHeaderName, httpCookie, httpQueryParameterName, useSourceIp or caller"
            raise refused("BM1261", "a consistent hash has one key", hint)
        sizes = (self.ring_hash, self.maglev, self.minimum_ring_size)
        if len([size for size in sizes if size is not None]) > 1:
            hint = "the old minimumRingSize stands for ringHash"
            raise refused("BM1261", "one of ringHash and maglev, not both", hint)
        return self

    def as_spec(self) -> HashSpec:
        if self.maglev is not None:
            return HashSpec(self._key(), "maglev", self.maglev.table_size)
        ring = self.ring_hash or RingHash()
        return HashSpec(self._key(), "ringHash", self.minimum_ring_size or ring.minimum_ring_size)

    def _key(self) -> HashKey:
        if self.http_header_name is not None:
            return HashKey("header", self.http_header_name)
        if self.http_cookie is not None:
            return HashKey("cookie", cookie=self.http_cookie.as_cookie())
        if self.http_query_parameter_name is not None:
            return HashKey("query", self.http_query_parameter_name)
        return HashKey("caller service" if self.caller == "service" else "caller instance")


class Sticky(Model):
    """A session stays with the instance that answered first, as long as that is usable."""

    cookie: HttpCookie | None = Field(
        None, description="Set by the agent; without ttl until the client ends."
    )
    header: WrittenHeader | None = Field(
        None, description="Of the response; the client sends it back with its next request."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Sticky:
        if (self.cookie is None) == (self.header is None):
            raise refused("BM1267", "a sticky session has a cookie or a header", "give one of the two")
        return self

    def as_spec(self) -> StickySession:
        if self.cookie is not None:
            return StickySession(self.cookie.as_cookie(without_ttl=0.0))
        return StickySession(header=self.header or "")
