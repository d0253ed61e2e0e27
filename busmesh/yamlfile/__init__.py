"""Strict YAML whose every value knows its line, and the findings that cite it.

Documents come from people, so an error must say where and what to write instead; and they come from
anywhere, so nothing in one may cost much or mean two things. Hence a subset: no tags, anchors, aliases,
merge keys or duplicate keys, only string keys, and the scalars of JSON. ``on``, ``yes``, ``1:30`` and
``0755`` are strings (YAML 1.2), not booleans, minutes and octals (YAML 1.1).
"""

from busmesh.yamlfile.findings import (
    Finding,
    InvalidDocuments,
    Path,
    Plain,
    Position,
    YamlDocument,
    dotted,
    nearest,
    refuse_errors,
    shorten,
)
from busmesh.yamlfile.reader import FORBIDDEN, MAX_BYTES, MAX_DEPTH, MAX_INT, read_yaml, write_yaml
from busmesh.yamlfile.shape import KnownField, field_names, findings_of, model_at

__all__ = [
    "FORBIDDEN",
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_INT",
    "Finding",
    "InvalidDocuments",
    "KnownField",
    "Path",
    "Plain",
    "Position",
    "YamlDocument",
    "dotted",
    "field_names",
    "findings_of",
    "model_at",
    "nearest",
    "read_yaml",
    "refuse_errors",
    "shorten",
    "write_yaml",
]
