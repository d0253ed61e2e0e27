"""The one error of the benchmarks: a stand that cannot be built, or a run that proves nothing."""

from __future__ import annotations

from busmesh.errors import BusmeshError


class BenchFailed(BusmeshError):
    """A process did not start, a contestant does not do the job, or a tool is missing."""
