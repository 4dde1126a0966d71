"""The picture of a run, as PNG and SVG: made from the JSON document, so that it can be drawn again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

BASELINE_COLOUR, OWN_COLOUR, PEER_COLOUR = "#1b5e8c", "#5b9bc8", "#b8b8b8"
COLUMNS = 4
PANEL = (3.4, 2.6)
"""Width and height of one chart in inches: twelve names stay readable."""

ROOM = 3
"""By how much an axis goes beyond its bars, so that their figures fit in."""

Bar = tuple[str, float]


def draw(document: dict[str, Any], stem: Path) -> list[Path]:
    """Draws a page for each corpus, as STEM-CORPUS.png and .svg. Returns what was written."""
    written = []
    corpora = dict.fromkeys(result["corpus"] for result in document["results"])
    for corpus in corpora:
        results = [result for result in document["results"] if result["corpus"] == corpus]
        written += _page(corpus, results, document["settings"], stem.with_name(f"{stem.name}-{corpus}"))
    return written


def _page(corpus: str, results: Sequence[dict[str, Any]], settings: dict[str, Any], stem: Path) -> list[Path]:
    panels: list[tuple[str, list[Bar]]] = []
    stored = [(result["contestant"], result["ratio"]) for result in results if result["ratio"]]
    if stored:
        panels.append(("raw / stored bytes (more is better)", stored))
    for workload in dict.fromkeys(result["workload"] for result in results if result["workload"] != "pack"):
        timed = [result for result in results if result["workload"] == workload and result["slowness"]]
        if timed:
            panels.append((workload, [(result["contestant"], result["slowness"]) for result in timed]))
    if not panels:
        return []
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(PANEL[0] * columns, PANEL[1] * rows), squeeze=False)
    for chart in axes.flat[len(panels) :]:
        chart.set_visible(False)
    for chart, (title, bars) in zip(axes.flat, panels, strict=False):
        _bars(chart, title, bars, settings["baseline"])
    latency = f", {settings['latency_ms']:g} ms added to each request" if settings["latency_ms"] else ""
    figure.suptitle(f"{corpus}: time relative to {settings['baseline']} (less is better, but where noted){latency}")
    figure.tight_layout()
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=120)
    plt.close(figure)
    return paths


def _bars(chart: Any, title: str, bars: Sequence[Bar], baseline: str) -> None:
    names = [name for name, _ in bars]
    colours = [
        BASELINE_COLOUR if name == baseline else OWN_COLOUR if name.startswith("stowfs") else PEER_COLOUR
        for name in names
    ]
    values = [value for _, value in bars]
    # On a logarithmic axis there is no zero for bars to begin at: they go from 1, to either side.
    chart.barh(names, [value - 1 for value in values], left=1, color=colours)
    chart.axvline(1, color=BASELINE_COLOUR, linewidth=1)
    for row, value in enumerate(values):
        chart.annotate(
            f"{value:.2g}", (max(value, 1), row), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
    chart.set_xscale("log")
    chart.set_xlim(min(*values, 1) / ROOM, max(*values, 1) * ROOM)
    chart.xaxis.set_minor_formatter(NullFormatter())
    chart.invert_yaxis()
    chart.set_title(title, fontsize=9)
    chart.tick_params(labelsize=7)
    for side in ("top", "right"):
        chart.spines[side].set_visible(False)
