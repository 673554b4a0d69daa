"""Draw docs/packages.svg, the packages: ``python docs/make_package_diagram.py [FILE]``.

The order is read from RUNTIME_LEVELS of tests/test_architecture.py, which holds the imports to it.
"""

import ast
import sys
from pathlib import Path

from make_turn_diagram import INK, arrow, box, note

WIDTH, TOP, HEIGHT, GAP = 780, 20, 38, 14
LEFT, RIGHT = 150, 760
TESTS = Path(__file__).resolve().parents[1] / "tests" / "test_architecture.py"
FILLS = ("io", "user", "speech", "speech", "user", "text", "text")


def runtime_levels() -> list[list[str]]:
    """Return the packages of ttt_runtime, lowest level first, those of a level by name."""
    for node in ast.parse(TESTS.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RUNTIME_LEVELS":
            return [sorted(level) for level in ast.literal_eval(node.value)]
    raise SystemExit(f"{TESTS} has no RUNTIME_LEVELS; say here where they are")


def diagram(levels: list[list[str]]) -> str:
    """Return the picture as SVG: a row of boxes for each level, the highest at the top."""
    outside = [("ttt_export", "text"), ("ttt_quant", "text")]
    rows = [[label] for label, _ in outside] + levels[::-1] + [["ttt_ref.config, ttt_ref.errors"]]
    inside = [FILLS[i % len(FILLS)] for i in range(len(levels))]
    fills = [*(fill for _, fill in outside), *inside[::-1], "io"]
    parts = []
    for number, (row, fill) in enumerate(zip(rows, fills, strict=True)):
        y = TOP + number * (HEIGHT + GAP)
        width = (RIGHT - LEFT - GAP * (len(row) - 1)) / len(row)
        parts += [
            box(LEFT + i * (width + GAP), y, width, HEIGHT, fill, label)
            for i, label in enumerate(row)
        ]
    pitch = HEIGHT + GAP
    first, last = TOP + len(outside) * pitch, TOP + (len(rows) - 1) * pitch - GAP
    parts += [
        f'<path d="M{LEFT - 10},{first} h-8 V{last} h8" fill="none" stroke="{INK}"/>',
        note(LEFT - 26, (first + last) / 2, "ttt_runtime", "end"),
        arrow(30, TOP, 30, last),
        note(12, last + 30, "imports go down", "start"),
    ]
    height = TOP + len(rows) * pitch
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif">'
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
        f'<path d="M0,0 L7,3 L0,6 z" fill="{INK}"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("packages.svg")
    target.write_text(diagram(runtime_levels()), encoding="utf-8")
