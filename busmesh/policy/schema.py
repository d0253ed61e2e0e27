"""JSON Schema of the documents, for editors: made from the models, so that the two cannot differ."""

from __future__ import annotations

import json
from typing import Any

from busmesh.policy.documents import KINDS


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a kind as written, Istio's included.

    Raises:
        KeyError: no such kind; ``KINDS`` has them.
    """
    made = KINDS[kind][1].model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def schema_text(kind: str) -> str:
    """Return the schema as the text of a file; ``policies/schema`` holds one for each kind."""
    return json.dumps(schema(kind), indent=2) + "\n"
