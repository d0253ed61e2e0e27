"""How commands say who has what was published."""

from __future__ import annotations

import click

from busmesh.operator.trusting import Heard
from busmesh.operator.wording import counted

_NAMED = 5


def tell(heard: Heard, what: str, wait: float) -> int:
    """Say who is where they should be; 1 if somebody is not."""
    if not heard.lacking:
        click.echo(f"{counted(heard.agents, 'agent', 'agents')} {what}, after {heard.waited:.1f} s")
        return 0
    text = (
        f"{len(heard.lacking)} of {heard.agents} agents do not yet {what} after {wait:g} s: {_names(heard)}"
    )
    click.echo(text, err=True)
    return 1


def tell_waiting(heard: Heard) -> None:
    """Say whom a command still waits for."""
    click.echo(f"waiting for {len(heard.lacking)} of {heard.agents} agents: {_names(heard)}", err=True)


def _names(heard: Heard) -> str:
    names = ", ".join(member.instance for member in heard.lacking[:_NAMED])
    return names + (f" and {len(heard.lacking) - _NAMED} more" if len(heard.lacking) > _NAMED else "")
