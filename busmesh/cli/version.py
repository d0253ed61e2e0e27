"""``busmesh version``: what to write into a report of a bug."""

from __future__ import annotations

import platform

import click

from busmesh import __version__


@click.command()
def version() -> None:
    """Print the version of busmesh, and the Python and system that it runs on."""
    where = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    click.echo(f"busmesh {__version__} ({where})")
