"""Draw docs/turn.svg, the diagram of one turn: ``python docs/make_turn_diagram.py``."""

from pathlib import Path

WIDTH, HEIGHT = 980, 330
INK, SOFT = "#1f2933", "#7b8794"
FILLS = {"user": "#d9e8f6", "text": "#fdf0d0", "speech": "#d8f0dd", "io": "#eceff2"}


def box(x: float, y: float, w: float, h: float, fill: str, label: str, size: int = 13) -> str:
    """A rounded box with a centred label."""
    return (
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="5" fill="{FILLS[fill]}" '
        f'stroke="{INK}" stroke-width="1"/>'
        f'<text x="{x + w / 2}" y="{y + h / 2 + size * 0.35}" font-size="{size}" '
        f'text-anchor="middle" fill="{INK}">{label}</text>'
    )


def note(x: float, y: float, text: str, anchor: str = "middle") -> str:
    """A small grey remark."""
    style = f'font-size="12" text-anchor="{anchor}" fill="{SOFT}"'
    return f'<text x="{x}" y="{y}" {style}>{text}</text>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a head."""
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" stroke-width="1.4" '
        'marker-end="url(#head)"/>'
    )


def diagram() -> str:
    """The whole picture."""
    parts = [
        box(20, 24, 120, 40, "io", "question.wav"),
        arrow(140, 44, 176, 44),
        box(180, 24, 150, 40, "user", "speech tokenizer"),
        '<path d="M255,64 L255,90 L95,90 L95,116" fill="none" '
        f'stroke="{INK}" stroke-width="1.4" marker-end="url(#head)"/>',
        note(270, 108, "one transformer, one KV cache, left to right", "start"),
    ]
    row = [
        (150, "user", "user speech"),
        (120, "text", "t t t t"),
        (150, "speech", "block of 26"),
        (120, "text", "t t t t"),
        (150, "speech", "block of 26"),
        (200, "speech", "last span: the rest"),
    ]
    x = 20.0
    centres = []
    for width, fill, label in row:
        parts.append(box(x, 122, width, 46, fill, label))
        centres.append(x + width / 2)
        x += width + 6
    remarks = ("prefill: one pass", "a pass a token", "2-10 passes a block")
    parts += [note(c, 188, r) for c, r in zip(centres, remarks, strict=False)]
    parts.append(note(centres[3], 188, "commits the span too"))
    for centre in (centres[2], centres[4], centres[5]):
        parts.append(arrow(centre, 198, centre, 238))
    parts += [
        box(302, 242, 638, 40, "io", "speech decoder: sound leaves as soon as a block is done"),
        note(621, 304, "answer.wav, streaming"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif">'
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
        f'<path d="M0,0 L7,3 L0,6 z" fill="{INK}"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    Path(__file__).with_name("turn.svg").write_text(diagram(), encoding="utf-8")
