"""How an error reaches a person: what failed, its code and the next thing to do.

The exit status is that of the error's class, so that scripts can tell a bus that is down from a refusal.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback

import click

from busmesh.cli.text import printable, redact
from busmesh.errors import BusmeshError
from busmesh.yamlfile import InvalidDocuments


def report(error: Exception) -> int:
    """Write ``error`` to stderr and return the exit status.

    A traceback helps nobody but us, so it is printed only with ``BUSMESH_DEBUG=1``.
    """
    if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:  # from a TaskGroup
        return report(error.exceptions[0])
    if isinstance(error, InvalidDocuments):
        for finding in error.findings:
            where = dataclasses.replace(finding, level="error", hint="")
            click.echo(_line(f"{finding.level}: ", str(where)), err=True)
            _hint(finding.hint)
        return error.exit_status
    if isinstance(error, BusmeshError):
        head = f"{error.code} {error.message}" if error.code else error.message
        click.echo(_line("error: ", head), err=True)
        _hint(error.hint)
        return error.exit_status
    if os.environ.get("BUSMESH_DEBUG") == "1":
        traceback.print_exception(error, file=sys.stderr)
    what = f"{type(error).__name__}: {error}"
    click.echo(_line("error: ", f"this should not have happened: {what}"), err=True)
    _hint("please report it, with the output of the same command under BUSMESH_DEBUG=1")
    return 1


def _hint(text: str) -> None:
    for line in text.splitlines():
        click.echo(_line("  -> ", line), err=True)


def _line(prefix: str, text: str) -> str:
    return prefix + printable(redact(text))
