"""A sweep as a picture: PNG or SVG, or one HTML file with picture and table (extra `plot`)."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import ConfigError, DeviceError
from ttt_ref.outputs import write_whole
from ttt_ref.package import install_command
from ttt_runtime.profiler.sweep import FIGURES, FRONTS

FORMATS: Final = (".png", ".svg", ".html")
_MARKERS: Final = "osD^vPX*"


def check_plots(paths: Sequence[Path]) -> None:
    """Refuse, before anything is measured, what could not be written after it.

    Raises:
        ConfigError: a file name of another kind.
        DeviceError: matplotlib is not installed.
        FileNotFoundError: the folder is missing.
    """
    for path in paths:
        if path.suffix.lower() not in FORMATS:
            raise ConfigError(f"--plot {path}: the name must end in {', '.join(FORMATS)}")
        path.absolute().parent.stat()
    if paths:
        _figure_class()


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DeviceError(f"matplotlib is not installed; run: {install_command('plot')}") from None
    return Figure


def write_plot(doc: Mapping[str, Any], path: Path) -> None:
    """Draw the document of a sweep into a file; its name's ending decides the form."""
    suffix = path.suffix.lower()
    if suffix == ".html":
        write_whole(path, _page(doc).encode())
    else:
        write_whole(path, _picture(doc, suffix.removeprefix(".")))


def _picture(doc: Mapping[str, Any], form: str) -> bytes:
    """Return the fronts side by side; colours are bundles, marks are passes a block."""
    cells: Sequence[Mapping[str, Any]] = doc["sweep"]
    titles = {key: title for key, title, _ in FIGURES}
    figure = _figure_class()(figsize=(5 * len(FRONTS), 4.4), layout="constrained")
    axes = figure.subplots(1, len(FRONTS))
    bundles = list(dict.fromkeys((row["bundle"], row["precision"]) for row in cells))
    steps = sorted({row["steps"] for row in cells})
    for axis, (x, y) in zip(axes, FRONTS, strict=True):
        for row in cells:
            if row[x] is None or row[y] is None:
                continue
            number = bundles.index((row["bundle"], row["precision"]))
            axis.scatter(
                row[x],
                row[y],
                color=f"C{number % 10}",
                marker=_MARKERS[steps.index(row["steps"]) % len(_MARKERS)],
                s=24 + 24 * row["threads"],
                alpha=0.8,
            )
        best = [cells[i] for i in doc["fronts"][f"{y} over {x}"]]
        axis.plot([row[x] for row in best], [row[y] for row in best], color="0.4", linewidth=1)
        for row in best:
            label = f"{row['steps']}x{row['block']}, {row['threads']}t"
            at = {"xytext": (4, 4), "textcoords": "offset points"}
            axis.annotate(label, (row[x], row[y]), fontsize=7, **at)
        axis.set_xlabel(titles[x])
        axis.set_ylabel(titles[y])
        axis.grid(alpha=0.3)
    legend = [
        axes[0].scatter([], [], color=f"C{i % 10}", label=f"{name} ({precision})")
        for i, (name, precision) in enumerate(bundles)
    ]
    for i, count in enumerate(steps):
        mark, name = _MARKERS[i % len(_MARKERS)], f"{count} pass{'es' if count > 1 else ''} a block"
        legend.append(axes[0].scatter([], [], color="0.5", marker=mark, label=name))
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        f"{doc['machine']['cpu']}: line = no point is better in both; labels = passes x block, "
        "threads",
        fontsize=9,
    )
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=140)
    return out.getvalue()


def _page(doc: Mapping[str, Any]) -> str:
    """Return a page that needs nothing but itself: the picture as SVG, all points as a table."""
    drawing = _picture(doc, "svg").decode()
    drawing = drawing[drawing.index("<svg") :]  # without the prologue of a file of its own
    keys = ["bundle", "precision", "steps", "block", "threads"]
    head = [*keys, *(title for _, title, _ in FIGURES), "underruns"]
    keys += [*(key for key, _, _ in FIGURES), "underruns"]
    fronts = {i for members in doc["fronts"].values() for i in members}
    rows = "\n".join(
        f"<tr{' class=front' if number in fronts else ''}>"
        + "".join(f"<td>{html.escape(str(row[key]))}</td>" for key in keys)
        + "</tr>"
        for number, row in enumerate(doc["sweep"])
    )
    header = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    machine = html.escape(str(doc["machine"]["cpu"]))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ttt-profile: sweep</title>
<style>
body {{ font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }}
svg {{ max-width: 100%; height: auto }}
table {{ border-collapse: collapse }} td, th {{ padding: .2em .7em; text-align: right }}
tr.front {{ font-weight: bold }} tr:nth-child(even) {{ background: #f3f3f3 }}
</style></head><body>
<h1>{len(doc["sweep"])} points on {machine}</h1>
{drawing}
<p>Bold: on one of the fronts. Times are medians of warm turns.</p>
<table><thead><tr>{header}</tr></thead><tbody>
{rows}
</tbody></table>
</body></html>
"""
