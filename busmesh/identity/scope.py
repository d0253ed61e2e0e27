"""What an operator may do, as the authority wrote it into the certificate: which namespaces, which kinds.

A scope stands in an extension of its own, which is critical: who does not know it takes the certificate for
nothing, instead of taking its holder for one who may do everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat import asn1

#: Of this project's own: a UUID as an arc needs no registry (ITU-T X.667).
SCOPE_OID = x509.ObjectIdentifier("2.25.329800735698586629295641978511506172918")
#: A scope of more bytes is not read.
MAX_SCOPE = 1024
_NAMES = r"[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*"
_TEXT = re.compile(rf"namespaces=(\*|{_NAMES});kinds=(\*|{_NAMES})")


@dataclass(frozen=True, slots=True)
class Scope:
    """What an operator may change.

    Attributes:
        namespaces: None for all. Of a document that speaks for services of others, all must be among them.
        kinds: of documents, None for all.
    """

    namespaces: frozenset[str] | None = None
    kinds: frozenset[str] | None = None

    def __str__(self) -> str:
        return f"namespaces={_written(self.namespaces)};kinds={_written(self.kinds)}"

    @property
    def everything(self) -> bool:
        return self.namespaces is None and self.kinds is None

    def outside(self, kind: str, namespaces: Iterable[str]) -> str:
        """Return what of a document is out of scope, for people; empty if nothing is."""
        if self.kinds is not None and kind not in self.kinds:
            return f"the kind {kind}"
        for namespace in namespaces:
            if self.namespaces is not None and namespace not in self.namespaces:
                return f"the namespace {namespace}"
        return ""

    def to_der(self) -> bytes:
        return asn1.encode_der(str(self))

    @classmethod
    def from_der(cls, der: bytes) -> Scope:
        """Read an extension.

        Raises:
            ValueError: it is none, or not as an authority writes it.
        """
        if len(der) > MAX_SCOPE:
            raise ValueError("a scope of too many bytes")
        found = _TEXT.fullmatch(asn1.decode_der(str, der))
        if found is None:
            raise ValueError("a scope that no authority writes")
        scope = cls(_read(found[1]), _read(found[2]))
        if scope.to_der() != der:
            raise ValueError("a scope that is not in canonical form")
        return scope


EVERYTHING = Scope()


def _written(names: frozenset[str] | None) -> str:
    return "*" if names is None else ",".join(sorted(names))


def _read(names: str) -> frozenset[str] | None:
    return None if names == "*" else frozenset(names.split(","))
