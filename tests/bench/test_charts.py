"""Charts: well-formed, complete, and honest about what did not work."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import charts, figures
from benchmarks.contest import Sample
from benchmarks.jobs import Idle, Job, Rate, Start
from benchmarks.svg import PANEL_WIDTH, WIDTH, Panel, Part, Row, panel, picture
from tests.bench.samples import DOWN, FEW, failed, idle, sample, started, streamed

MESHES = ("them", "us")
RUN = [
    *(idle("them", 66.0), idle("us", 61.0), started("them", 1, 0.05), started("us", 1, 0.5)),
    *(sample("them", 1, 100), sample("them", 2, 120), sample("us", 1, 90), sample("none", 1, 5000)),
    *(sample("them", 1, 1000, job=Rate(1000)), sample("us", 1, 1000, job=Rate(1000))),
    *(streamed("them", 1, 700), failed("us", 1, "HTTP 413 <&>")),
]


def words(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")]


def test_there_is_a_chart_for_every_job_and_each_is_well_formed(tmp_path: Path) -> None:
    written = charts.write(RUN, MESHES, tmp_path / "charts")
    names = {"get-32.svg", "rate-1000.svg", "download-1g.svg", "start.svg", "idle.svg"}
    assert set(written.values()) == names
    for job, name in written.items():
        text = (tmp_path / "charts" / name).read_text(encoding="utf-8")
        assert words(text)[0] == f"{job.name}: {job}"
        assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("job", [FEW, DOWN, Rate(1000), Start(), Idle()])
def test_every_panel_has_its_unit_and_says_which_way_is_better(job: Job) -> None:
    for shown in charts.panels(RUN, job, MESHES):
        assert shown.title.rpartition(", ")[2] in {"req/s", "us", "MB/s", "s/GiB", "MiB", "ms"}
        assert shown.better in {"more is better", "less is better"}
        assert shown.rows


def rows_of(samples: list[Sample], figure: figures.Figure) -> dict[str, Row]:
    shown = charts.bar_panel(samples, samples[0].job, figure, MESHES, "t")
    return {row.label: row for row in shown.rows}


def test_a_contestant_that_failed_is_in_the_chart() -> None:
    rows = rows_of([streamed("them", 1, 700), failed("us", 1, "HTTP 413")], figures.MB_PER_S)
    assert rows["us"].text == "failed: HTTP 413"
    assert rows["us"].parts == ()


def test_a_round_that_failed_is_told_at_the_bar() -> None:
    rows = rows_of([streamed("us", 1, 700), failed("us", 2, "HTTP 413")], figures.MB_PER_S)
    assert rows["us"].text == "700 (1 failed)"


def test_the_meshes_set_the_scale_and_a_longer_bar_is_cut() -> None:
    few = [run for run in RUN if run.job == FEW]
    shown = charts.bar_panel(few, FEW, figures.RPS, MESHES, "throughput")
    assert shown.scale == 120
    drawn = "".join(panel(shown, 0, 0))
    assert drawn.count('class="cut"') == 2  # one bar, two strokes
    assert "5,000" in drawn


def test_without_a_mesh_the_longest_bar_sets_the_scale() -> None:
    shown = charts.bar_panel([sample("none", 1, 5000)], FEW, figures.RPS, MESHES, "throughput")
    assert shown.scale == 5000


def test_each_contestant_keeps_its_colour() -> None:
    for samples in (RUN, [run for run in RUN if run.contestant != "them"]):
        shown = charts.bar_panel(samples, FEW, figures.RPS, MESHES, "throughput")
        colours = {row.label: row.parts[0].colour for row in shown.rows}
        assert colours["us"] == "orange"
        assert colours["none"] == "grey"


def test_idle_and_loaded_memory_share_a_scale() -> None:
    idle_panel, loaded_panel = charts.panels(RUN, Idle(), MESHES)
    assert idle_panel.scale == loaded_panel.scale
    assert {row.label for row in idle_panel.rows} == {"them", "us"}


def test_nothing_leaves_the_picture_and_words_are_escaped() -> None:
    row = Row("<label>", (Part(5.0, "blue"), Part(50.0, "pink")), "a & b", dots=(1.0, 99.0))
    shown = Panel('"t" <u>, us', "less is better", [row, Row("none", (), "failed")], 10.0, [("role", "pink")])
    drawn = picture("<title> & more", "note", [shown, shown, shown])
    assert {"<label>", "a & b", '"t" <u>, us less is better'} <= set(words(drawn))
    for shape in ElementTree.fromstring(drawn).iter():
        if shape.tag.endswith("rect") and shape.get("class") != "page":
            assert 0 <= float(shape.attrib["x"]) <= WIDTH - float(shape.attrib["width"])
    assert PANEL_WIDTH * 2 < WIDTH


def test_a_panel_without_any_value_is_drawn_as_well() -> None:
    words(picture("t", "n", [Panel("t, us", "less is better", [Row("us", (), "failed")], 0.0)]))
