"""Which functions of the package read bytes, found by what they call and by what they are called with."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import busmesh

ROOT = Path(busmesh.__file__).parent
#: Whoever calls one of these takes bytes apart.
CALLS = frozenset(
    "unpackb Unpacker loads unpack unpack_from load_der_x509_certificate load_der_x509_csr decode_der "
    "load_pem_x509_certificate load_pem_x509_certificates load_pem_private_key b64decode urlsafe_b64decode "
    "bio_write recv FieldReader open_signed open_rooted unpacked decode_complete feed_data from_jwk "
    "model_validate model_validate_json read_header literal_eval fromhex read_array_header".split()
)
#: What the bus calls has these arguments.
HANDLER = ["subject", "reply", "payload", "headers"]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    """Yield (``module:name``, node) of every function; one within another counts as part of it."""
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, Function):
                        yield f"{module}:{node.name}.{inner.name}", inner
            elif isinstance(node, Function):
                yield f"{module}:{node.name}", node


def readers() -> set[str]:
    """Return the functions that take bytes apart."""
    return {name for name, node in functions() if any(_reads(each) for each in ast.walk(node))}


def handlers() -> set[str]:
    """Return the functions to which the bus hands messages."""
    return {name for name, node in functions() if any(_hears(each) for each in ast.walk(node))}


def _hears(node: ast.AST) -> bool:
    return (
        isinstance(node, Function) and [each.arg for each in node.args.args if each.arg != "self"] == HANDLER
    )


def _reads(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name in CALLS
    return False
