"""Documents in few words, for the tests of this folder."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from busmesh.policy.documents import Document, parse_documents


def route_text(name: str = "orders", host: str = "", rules: str = "", namespace: str = "default") -> str:
    rules = rules or f"- route: [{{destination: {{host: {host or name}}}}}]"
    head = f"apiVersion: busmesh/v1\nkind: Route\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    indented = textwrap.indent(textwrap.dedent(rules), "    ")
    return f"{head}spec:\n  hosts: [{host or name}]\n  http:\n{indented}\n"


def destination_text(name: str = "orders", subsets: str = "[]", host: str = "") -> str:
    head = f"apiVersion: busmesh/v1\nkind: Destination\nmetadata: {{name: {name}}}\n"
    return f"{head}spec:\n  host: {host or name}\n  subsets: {subsets}\n"


def limits_text(name: str = "orders", limits: str = "[{requests: 100}]", host: str = "") -> str:
    head = f"apiVersion: busmesh/v1\nkind: RateLimit\nmetadata: {{name: {name}}}\n"
    return f"{head}spec:\n  host: {host or name}\n  limits: {limits}\n"


@pytest.fixture
def documents() -> Callable[..., list[Document]]:
    """Read documents from texts: ``documents(text, ...)``."""
    return lambda *texts: parse_documents("---\n".join(texts).encode(), "f.yaml")


@pytest.fixture
def route(documents: Callable[..., list[Document]]) -> Callable[..., Document]:
    """Make a Route: ``route(name, host=, rules=, namespace=)``; by default everything to its host."""

    def make(*args: str, **options: str) -> Document:
        (document,) = documents(route_text(*args, **options))
        return document

    return make


@pytest.fixture
def destination(documents: Callable[..., list[Document]]) -> Callable[..., Document]:
    """Make a Destination: ``destination(name, subsets=, host=)``."""

    def make(*args: str, **options: Any) -> Document:
        (document,) = documents(destination_text(*args, **options))
        return document

    return make


@pytest.fixture
def rate_limit(documents: Callable[..., list[Document]]) -> Callable[..., Document]:
    """Make a RateLimit: ``rate_limit(name, limits=, host=)``."""

    def make(*args: str, **options: str) -> Document:
        (document,) = documents(limits_text(*args, **options))
        return document

    return make
