"""Reading documents from files and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from busmesh.policy.documents import Document, parse_documents
from busmesh.yamlfile import MAX_BYTES, Finding, InvalidDocuments, refuse_errors

STDIN = "-"


def load_documents(sources: Iterable[str | Path], *, stdin: BinaryIO | None = None) -> list[Document]:
    """Read every document of every source, in their order.

    Args:
        sources: files; ``-`` is standard input.
        stdin: what ``-`` reads from; None is the process's own.

    Raises:
        InvalidDocument: with every finding about any of the files, one that cannot be read included.
    """
    documents: list[Document] = []
    findings: list[Finding] = []
    for source in sources:
        name = "stdin" if str(source) == STDIN else str(source)
        try:
            if str(source) == STDIN:
                data = (stdin or sys.stdin.buffer).read(MAX_BYTES + 1)
            else:
                with Path(source).open("rb") as file:
                    data = file.read(MAX_BYTES + 1)
            documents.extend(parse_documents(data, name))
        except OSError as error:
            message = f"cannot be read: {error.strerror or error}"
            findings.append(Finding("error", "BM1214", message, name))
        except InvalidDocuments as error:
            findings.extend(error.findings)
    refuse_errors(findings)
    return documents
