"""The stage is set once for each file: what a threat leaves behind must not matter to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.threats.middle import honest
from tests.threats.stage import Stage, standing


@pytest.fixture(scope="module")
def set_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with standing(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(set_stage: Stage) -> Iterator[Stage]:
    with set_stage.caller() as caller:
        assert caller.call("/")[0] == 200
    yield set_stage
    set_stage.middle.meddle = honest
