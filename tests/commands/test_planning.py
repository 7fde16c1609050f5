"""The bill of ``motive plan``: sums with an interval, wall time for several workers, and money."""

import pytest

from assets.plan import Planned
from motive_pipeline import cli
from motive_pipeline.commands.planning import bill_lines
from motive_pipeline.config import parse_config
from motive_pipeline.forecast import Measured
from motive_pipeline.graph import Graph

WAN = "model: {path: Wan-AI/Wan2.1-T2V-1.3B-Diffusers}\nclips: {path: clips}\nqueries: {path: queries}\n"


def planned(asset: str, seconds: float | None, low_s: float | None = None, high_s: float | None = None, hours: float = 0.0) -> Planned:
    return Planned(
        asset=asset, reasons=["x"], certain=True, rows=None, seconds=seconds, device_hours=hours, disk_mb=1.5, low_s=low_s, high_s=high_s
    )


@pytest.fixture
def graph(tmp_path) -> Graph:
    return Graph(parse_config(WAN, tmp_path / "motive.yaml"))


@pytest.mark.parametrize(
    ("runs", "by_rows", "expected"),
    [
        ([(10, 20.0)], True, (2.0, 1.6, 2.4)),
        ([(10, 20.0), (100, 150.0)], True, (1.5, 1.2, 1.8)),  # a run of few rows tells nothing
        ([(60, 60.0), (100, 150.0)], True, (1.5, 1.0, 1.8)),
        ([(80, 72.0), (90, 90.0), (100, 101.0)], True, (1.01, 0.9, 1.01)),
        ([(100, 90.0), (100, 110.0)], True, (1.1, 0.88, 1.32)),  # of equal runs the last one
        ([(1, 4.0), (1, 5.0), (1, 3.0)], False, (5.0, 3.0, 5.0)),
        ([(1, 4.0)], False, (4.0, 3.2, 4.8)),
    ],
)
def test_the_largest_run_tells_the_cost_and_runs_of_like_size_the_spread(runs, by_rows, expected):
    found = Measured.of(runs, by_rows=by_rows)
    assert (found.seconds, found.low_s, found.high_s) == pytest.approx(expected)
    thrice = found.times(3)
    assert (thrice.seconds, thrice.low_s, thrice.high_s) == pytest.approx([3 * value for value in expected])


def test_the_bill_adds_up_and_workers_share_the_rows_alone(graph):
    assets = [
        planned("latents", 1000.0, 900.0, 1200.0, 0.25),
        planned("projected_gradients/motive", 6200.0, 6000.0, 7000.0, 1.75),
        planned("finetuned_checkpoint/motive", 3600.0, 3600.0, 3600.0, 1.0),
        planned("eval_report", None),
    ]
    assert list(bill_lines(assets, graph, workers=8, price_per_hour=2.0)) == [
        "in total at most about 10800 s, 3.000 device-hours and 4.5 MB, estimated from earlier runs",
        "by the spread of runs (20 % to each side of fewer than three, a factor of 2 without any) between 10500 and 11800 s",
        "with 8 workers about 4500 s: they share 7200 s of rows, and one machine does the rest",
        "at 2 an hour about 6.00 (between 5.83 and 6.56)",
        "not in these sums, as nothing was measured: eval_report",
    ]
    assert len(list(bill_lines(assets[:3], graph, workers=1, price_per_hour=None))) == 2


def test_without_a_measured_run_there_is_no_bill(graph):
    assets = [planned("latents", None)]
    assert list(bill_lines(assets, graph, workers=1, price_per_hour=None)) == []
    (line,) = bill_lines(assets, graph, workers=1, price_per_hour=2.0)
    assert "motive plan --clips N --gpu NAME" in line


def test_before_anything_is_measured_the_published_table_gives_the_bill(tmp_path, capsys):
    (tmp_path / "motive.yaml").write_text(WAN, encoding="utf-8")
    command = ["plan", "--config", str(tmp_path / "motive.yaml"), "--clips", "10000", "--gpu", "H200"]
    assert cli.main([*command, "--workers", "10", "--price-per-hour", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    hours = {
        name: float(line[19:33].replace(",", "")) for line in lines for name in ("rank only", "everything") if line.startswith(f"{name}  ")
    }
    money = {line.split(" at 4")[0]: float(line.split()[-1].replace(",", "")) for line in lines if " at 4 an hour" in line}
    assert money.keys() == hours.keys() == {"rank only", "everything"}
    assert all(abs(money[name] - 4 * hours[name]) <= 4 * 0.05 + 0.01 for name in hours)
    wall = next(float(line.split("about ")[1].split()[0]) for line in lines if line.startswith("rank only with 10 workers"))
    assert wall == pytest.approx(hours["rank only"] / 10, abs=0.06)
    assert cli.main([*command, "--select", "latents"]) == 1
    assert "--select" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--workers", "0"], ["--price-per-hour", "-1"], ["--price-per-hour", "nan"]])
def test_options_that_are_no_number_above_0_are_refused(options, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", "--config", str(tmp_path / "motive.yaml"), *options])
    assert stopped.value.code == 2
