"""A strict reader of the Prometheus text format, for tests: anything doubtful is an AssertionError."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)'
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|Inf)|NaN")
_UNESCAPE = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    kind: str
    help: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def by(self, name: str) -> dict[Labels, float]:
        return {labels: value for (sample, labels), value in self.samples.items() if sample == name}


def parse(text: str) -> dict[str, Family]:
    """Return the families of an exposition, which must be in the order HELP, TYPE, samples."""
    assert text.endswith("\n"), "the last line must end"
    families: dict[str, Family] = {}
    awaiting_type: tuple[str, str] | None = None
    current = ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            assert awaiting_type is None, line
            name, _, text_of = line.removeprefix("# HELP ").partition(" ")
            assert name not in families, f"{name} comes twice"
            assert text_of, f"{name} has no help"
            awaiting_type = (name, text_of)
        elif line.startswith("# TYPE "):
            name, _, kind = line.removeprefix("# TYPE ").partition(" ")
            assert awaiting_type is not None, line
            assert awaiting_type[0] == name, line
            assert kind in {"counter", "gauge", "histogram"}, line
            families[name] = Family(kind, awaiting_type[1])
            current, awaiting_type = name, None
        else:
            assert awaiting_type is None, line
            _sample(families[current], current, line)
    for name, family in families.items():
        _check(name, family)
    return families


def _sample(family: Family, name: str, line: str) -> None:
    match = _SAMPLE.fullmatch(line)
    assert match is not None, f"not a sample: {line!r}"
    sample, raw, value = match.groups()
    suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    assert sample in {name + suffix for suffix in suffixes}, f"{sample} is not of {name}"
    labels: list[tuple[str, str]] = []
    at = 0
    while at < len(raw or ""):
        label = _LABEL.match(raw, at)
        assert label is not None, line
        labels.append((label[1], re.sub(r"\\.", lambda escape: _UNESCAPE[escape[0]], label[2])))
        at = label.end()
    assert len({key for key, _ in labels}) == len(labels), line
    assert _NUMBER.fullmatch(value), f"not a number: {value!r}"
    key = (sample, tuple(labels))
    assert key not in family.samples, f"twice: {line}"
    family.samples[key] = float(value)


def _check(name: str, family: Family) -> None:
    assert family.samples, f"{name} has no sample"
    assert (family.kind == "counter") == name.endswith("_total"), name
    if family.kind == "counter":
        assert all(value >= 0 for value in family.samples.values()), name
    if family.kind != "histogram":
        return
    ladders: dict[Labels, list[tuple[float, float]]] = {}
    for labels, value in family.by(f"{name}_bucket").items():
        assert labels[-1][0] == "le", labels
        ladders.setdefault(labels[:-1], []).append((float(labels[-1][1]), value))
    counts = family.by(f"{name}_count")
    assert ladders.keys() == counts.keys() == family.by(f"{name}_sum").keys(), name
    for labels, ladder in ladders.items():
        bounds, values = zip(*ladder, strict=True)
        assert list(bounds) == sorted(set(bounds)), labels
        assert list(values) == sorted(values), labels
        assert bounds[-1] == float("inf"), labels
        assert values[-1] == counts[labels], labels
