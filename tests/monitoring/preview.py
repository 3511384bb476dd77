"""Draws the dashboards with data of a stack in use, as docs/images has them: `make dashboards`.

A sketch of what Grafana shows, not Grafana: panels in their places, with their queries' answers.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from services.cli.stack import Stack
from tests.e2e.conftest import Client
from tests.job_services import figure_obj
from tests.monitoring.dashboards import DASHBOARDS, Panel, filled
from tests.monitoring.prometheus_server import PrometheusServer
from tests.monitoring.watched_stack import event_stream, use, watched_stack

_FOLDER = Path(__file__).parents[2] / "docs" / "images"
_LOAD_SECONDS = 180
_SESSIONS = 3
# Of one session, more than it can rig in that time.
_UPLOADS = 20
_RATE_INTERVAL = "30s"
_STEP_SECONDS = 2
# One unit of Grafana's grid, inches.
_UNIT_WIDTH, _UNIT_HEIGHT = 0.56, 0.29
_DPI = 84
_GAP = 0.12
_COLOURS = {"green": "#3a9d5d", "orange": "#e08a1e", "red": "#d0413e", "blue": "#3a76c4"}
_INK, _FAINT, _PAPER, _CARD = "#23272e", "#8a919c", "#eef0f3", "#ffffff"

Series = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """Unix seconds: of what is drawn, and of the single figures."""

    start: float
    end: float
    busy: float


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        watched_stack(Path(folder), uploads_per_hour=_UPLOADS) as watched,
    ):
        start = time.time()
        use(watched.stack, uploads_per_hour=_UPLOADS)
        busy = time.time() + 0.8 * _LOAD_SECONDS
        _rig_for(watched.stack, _LOAD_SECONDS)
        times = Times(start, watched.prometheus.wait_for_scrapes(), busy)
        for name, dashboard in DASHBOARDS.items():
            path = _FOLDER / f"dashboard_{name.replace('-', '_')}.png"
            _save(_drawn(dashboard, watched.prometheus, times), path)
            print(path, file=sys.stderr)


def _rig_for(stack: Stack, seconds: float) -> None:
    """Some sessions that rig one model after the other, and one that asks for what is not there."""
    end = time.monotonic() + seconds

    def rig() -> None:
        client = Client(stack.url)
        with event_stream(stack, client):
            while time.monotonic() < end:
                path = client.uploaded(figure_obj(), "figure.obj")
                skeleton = client.finished("skeleton", input_file=path)
                client.finished("skinning", input_file=skeleton["output_file"])
        client.http.close()

    def stray() -> None:
        client = Client(stack.url)
        while time.monotonic() < end:
            client.http.get("/api/jobs/00000000-0000-0000-0000-000000000000")
            client.upload(b"no model", "model.obj")
            time.sleep(2)
        client.http.close()

    with ThreadPoolExecutor() as pool:
        for done in [*(pool.submit(rig) for _ in range(_SESSIONS)), pool.submit(stray)]:
            done.result()


def _drawn(dashboard: dict[str, Any], prometheus: PrometheusServer, times: Times) -> Figure:
    mpl.rcParams.update({"font.size": 7.5, "text.color": _INK, "axes.edgecolor": "#d5d9df"})
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    rows = max(place["y"] + place["h"] for place in places) + 2
    figure = plt.figure(figsize=(24 * _UNIT_WIDTH, rows * _UNIT_HEIGHT), facecolor=_PAPER)
    figure.text(
        *_point(0.2, 1.2, rows), dashboard["title"], fontsize=13, weight="bold", va="center"
    )
    for panel in dashboard["panels"]:
        place = {**panel["gridPos"], "y": panel["gridPos"]["y"] + 2}
        if panel["type"] == "row":
            point = _point(0.2, place["y"] + 0.5, rows)
            figure.text(*point, panel["title"], fontsize=9, weight="bold", va="center")
            continue
        card = figure.add_axes(_box(place, rows, 0), facecolor=_CARD)
        _bare(card)
        point = _point(place["x"] + 0.25, place["y"] + 0.6, rows)
        figure.text(*point, panel["title"], fontsize=8, weight="bold", va="center")
        axes = figure.add_axes(_box(place, rows, 1), facecolor=_CARD)
        if "DCGM_" in str(panel["targets"]):
            _bare(axes)
            axes.text(0.5, 0.5, "needs a GPU", ha="center", va="center", color=_FAINT)
        else:
            _DRAW[panel["type"]](axes, panel, prometheus, times)
    return figure


def _point(x: float, y: float, rows: int) -> tuple[float, float]:
    return x / 24, 1 - y / rows


def _box(place: dict[str, int], rows: int, inner: int) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a panel, or of what is inside of its frame and title."""
    x, y, w, h = (float(place[key]) for key in "xywh")
    sides = (1.0, 0.4) if inner and h > 4 else (0.2, 0.2) if inner else (0.0, 0.0)
    above, below = (1.2, 2.0 if h > 4 else 0.3) if inner else (0.0, 0.0)
    left, right = x + _GAP + sides[0], x + w - _GAP - sides[1]
    top, bottom = y + _GAP + above, y + h - _GAP - below
    return left / 24, 1 - bottom / rows, (right - left) / 24, (bottom - top) / rows


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_stat(axes: Axes, panel: Panel, prometheus: PrometheusServer, times: Times) -> None:
    _bare(axes)
    (target,) = panel["targets"]
    samples = prometheus.query(filled(target["expr"], _RATE_INTERVAL), times.busy)
    for index, sample in enumerate(samples):
        value = float(sample["value"][1])
        colour, text = _colour(panel, value), _shown(panel, value)
        left, width = index / len(samples), 1 / len(samples)
        if len(samples) == 1:
            axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=17, color=colour)
            continue
        axes.add_patch(
            plt.Rectangle((left + 0.01, 0.1), width - 0.02, 0.8, color=colour, linewidth=0)
        )
        label = f"{_legend(target, sample['metric'])}\n{text}"
        axes.text(left + width / 2, 0.5, label, ha="center", va="center", color="white")


def _draw_table(axes: Axes, panel: Panel, prometheus: PrometheusServer, times: Times) -> None:
    _bare(axes)
    (target,) = panel["targets"]
    samples = prometheus.query(filled(target["expr"], _RATE_INTERVAL), times.busy)
    lines = [[*sample["metric"].values(), sample["value"][1]] for sample in samples]
    for row, line in enumerate([[*samples[0]["metric"], "pods"], *sorted(lines)]):
        for column, text in enumerate(line):
            place = (column / len(line), 0.95 - 0.15 * row)
            axes.text(*place, text, va="top", color=_INK if row else _FAINT)


def _draw_lines(axes: Axes, panel: Panel, prometheus: PrometheusServer, times: Times) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    lines: list[tuple[str, Series]] = [
        (_legend(target, series["metric"]), series)
        for target in panel["targets"]
        for series in prometheus.query_range(
            filled(target["expr"], _RATE_INTERVAL), times.start, times.end, _STEP_SECONDS
        )
    ]
    stacked = "stacking" in panel["fieldConfig"]["defaults"]["custom"]
    colours = plt.get_cmap("tab10" if len(lines) <= 10 else "tab20").colors
    below: dict[float, float] = {}
    for (name, series), colour in zip(lines, _repeated(colours, len(lines)), strict=True):
        points = {float(at) - times.start: float(value) for at, value in series["values"]}
        if stacked:
            low = [below.get(at, 0.0) for at in points]
            below |= {at: below.get(at, 0.0) + value for at, value in points.items()}
            high = [below[at] for at in points]
            axes.fill_between(list(points), low, high, color=colour, alpha=0.35, linewidth=0)
            axes.plot(list(points), high, color=colour, linewidth=0.9, label=name)
        else:
            axes.plot(list(points), list(points.values()), color=colour, linewidth=1, label=name)
    axes.set_xlim(0, times.end - times.start)
    axes.set_ylim(bottom=0, top=None if axes.get_ylim()[1] > 0.06 else 1)
    axes.yaxis.set_major_formatter(lambda value, _: with_unit(value, unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 60:.0f} min")
    axes.xaxis.set_major_locator(mpl.ticker.MultipleLocator(60))
    axes.set_yticks(_ticks(axes.get_ylim()[1], unit))
    axes.tick_params(length=0, labelsize=6.5, colors=_FAINT)
    axes.grid(color="#eceef1", linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, names), default=0) < 22 else 2
    axes.legend(
        handles[: 3 * columns],
        names[: 3 * columns],
        loc="upper left",
        bbox_to_anchor=(-0.1, -0.1),
        ncols=columns,
        fontsize=6,
        frameon=False,
        handlelength=1,
        columnspacing=1,
        labelspacing=0.25,
    )


def _ticks(top: float, unit: str) -> list[float]:
    """Four or so, round in the unit in which they are written."""
    power = _power(top) if unit in ("bytes", "Bps") else 0
    ticks = mpl.ticker.MaxNLocator(4).tick_values(0, top / 1024**power)
    return [tick * 1024**power for tick in ticks if tick * 1024**power <= top]


_DRAW: dict[str, Callable[[Axes, Panel, PrometheusServer, Times], None]] = {
    "stat": _draw_stat,
    "table": _draw_table,
    "timeseries": _draw_lines,
}


def _repeated(colours: tuple[Any, ...], count: int) -> list[Any]:
    return [colours[index % len(colours)] for index in range(count)]


def _legend(target: dict[str, str], labels: dict[str, str]) -> str:
    name = re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), target["legendFormat"])
    return name.removeprefix("/unirig.v1.")


def _colour(panel: Panel, value: float) -> str:
    colour = ""
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return _COLOURS[colour]


def _shown(panel: Panel, value: float) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults.get("mappings", []):
        if f"{value:g}" in mapping["options"]:
            return str(mapping["options"][f"{value:g}"]["text"])
    return with_unit(value, defaults["unit"])


def with_unit(value: float, unit: str) -> str:
    """The number as Grafana would write it, more or less."""
    match unit:
        case "percentunit":
            return f"{100 * value:.3g} %"
        case "percent":
            return f"{value:.3g} %"
        case "s":
            return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
        case "reqps":
            return f"{value:.3g}/s"
        case "bytes" | "Bps" | "mbytes":
            size = value * (2**20 if unit == "mbytes" else 1)
            power = _power(size)
            suffix = "/s" if unit == "Bps" else ""
            return f"{size / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}{suffix}"
    return f"{value:.3g}"


def _power(size: float) -> int:
    """Of 1024, in whose multiples the size is written."""
    return next(power for power in (4, 3, 2, 1, 0) if size >= 1024**power or power == 0)


def _save(figure: Figure, path: Path) -> None:
    """A PNG of few colours, as it is kept in the repository."""
    figure.canvas.draw()
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    with Image.open(path) as image:
        image.convert("RGB").quantize(96).save(path, optimize=True)


if __name__ == "__main__":
    main()
