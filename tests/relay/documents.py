"""Documents in few words, for tests of what the request path makes of them."""

from __future__ import annotations

import textwrap

HEAD = "apiVersion: busmesh/v1\nkind: {kind}\nmetadata: {{name: {host}}}\nspec:\n"
#: What a rule needs that sends requests on.
SEND = "route: [{destination: {host: orders}}]"


def route(rules: str, host: str = "orders") -> str:
    """Write a Route of these rules; one rule may be written without its dash."""
    text = textwrap.dedent(rules).strip()
    if not text.startswith("-"):
        text = "- " + text.replace("\n", "\n  ")
    return (
        f"{HEAD.format(kind='Route', host=host)}  hosts: [{host}]\n  http:\n{textwrap.indent(text, '    ')}\n"
    )


def sends(extra: str = "") -> str:
    """Write a Route of one rule that sends everything to orders, and does ``extra``."""
    return route(f"{SEND}\n{extra}")


def destination(policy: str, subsets: str = "[]", host: str = "orders") -> str:
    """Write a Destination with this ``trafficPolicy``, in flow style without the braces."""
    head = HEAD.format(kind="Destination", host=host)
    return f"{head}  host: {host}\n  trafficPolicy: {{{policy}}}\n  subsets: {subsets}\n"
