"""The stage is set once for each file: what a threat leaves behind must not matter to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.threats.middle import honest
from tests.threats.stage import Stage, standing
from tests.threats.stolen import Stolen
from tests.threats.stolen import standing as standing_robbed


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


@pytest.fixture(scope="module")
def robbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stolen]:
    with standing_robbed(tmp_path_factory.mktemp("robbed")) as made:
        yield made
