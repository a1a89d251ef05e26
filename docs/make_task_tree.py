"""Makes docs/task-tree.svg, the picture in docs/design.md: ``python docs/make_task_tree.py``. A test compares the two.

A box is what a nursery or a scope holds; a box within it is over before it. All text stands on a box of its own colour,
so it can be read on a light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

import attrs

PICTURE = Path(__file__).with_name("task-tree.svg")

WIDTH = 880
MARGIN = 14
GAP = 10
TITLE = 17
LINE = 19
TOP = 10

STYLE = """\
    text { font: 14px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1b2733; }
    .title { font-weight: 600; }
    rect { stroke: #4d6b8a; }
    .level0 { fill: #e3ebf4; }
    .level1 { fill: #d0ddeb; }
    .level2 { fill: #bccfe2; }
    .level3 { fill: #a8c1d9; }
    .level4 { fill: #f4f8fb; }
    .many { stroke-dasharray: 6 3; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      rect { stroke: #7d9bbb; }
      .level0 { fill: #18232f; }
      .level1 { fill: #203040; }
      .level2 { fill: #293d51; }
      .level3 { fill: #324a62; }
      .level4 { fill: #101820; }
    }"""


@attrs.frozen
class Box:
    """What is drawn as one box: a task, or a nursery with what is in it."""

    title: str
    notes: tuple[str, ...] = ()
    inside: tuple[Box | Row, ...] = ()
    many: bool = False
    """Whether there is one for each of something, or none; drawn with a dashed line."""

    @property
    def height(self) -> int:
        """Its height with all that is in it."""
        if not self.inside:
            return self.head + TOP
        heights = [box.height for box in self.inside]
        return self.head + GAP // 2 + sum(heights) + GAP * (len(heights) - 1) + MARGIN

    @property
    def head(self) -> int:
        """The height of its text."""
        return TOP + TITLE + LINE * len(self.notes)


@attrs.frozen
class Row:
    """Boxes that stand side by side."""

    boxes: tuple[Box, ...]

    @property
    def height(self) -> int:
        """The height of the highest."""
        return max(box.height for box in self.boxes)


CONNECTION = Box(
    "connection",
    ("dispatches, runs the ordered handlers, and at the end alone closes the transport",),
    (
        Row(
            (
                Box("reader", ("transport → inbox;", "pings, $cancel")),
                Box("writer", ("outbox → transport;", "waits for the peer")),
                Box("pinger", ("from the first", "ping on")),
                Box("yours", ("concurrent handlers,", "session, start_soon"), many=True),
            )
        ),
    ),
    many=True,
)

TREE = Box(
    "Manager.serve",
    ("when it is over, nothing is left",),
    (
        Box("broker", ("shielded: outlives everything that may publish",)),
        Box(
            "flusher, poller, watchdog",
            ("write what need not wait, wait for what clients send, name what holds a shutdown too long",),
        ),
        Box(
            "tasks",
            ("shielded until the connections are over, which need them to their end",),
            (
                Row(
                    (
                        Box("room", ("opens it, owns room.start_soon,", "closes it; if there is need"), many=True),
                        Box("hooks", ("that must run although their", "connection is gone"), many=True),
                        Box("alarm", ("wakes the pingers of all", "connections out of one heap")),
                    )
                ),
                Box(
                    "connections",
                    ("get a deadline when a shutdown begins",),
                    (CONNECTION, Box("listener", ("accepts; cancelled first",), many=True)),
                ),
            ),
        ),
    ),
)


def draw(box: Box, x: int, y: int, width: int, level: int) -> Iterator[str]:
    """A box, its text, and the boxes in it."""
    kind = f"level{level if box.inside else 4}{' many' if box.many else ''}"
    yield f'  <rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{box.height}" rx="7"/>'
    yield f'  <text class="title" x="{x + MARGIN}" y="{y + TOP + TITLE - 4}">{escape(box.title)}</text>'
    for number, note in enumerate(box.notes, 1):
        yield f'  <text x="{x + MARGIN}" y="{y + TOP + TITLE - 4 + LINE * number}">{escape(note)}</text>'
    below = y + box.head + GAP // 2
    for inner in box.inside:
        boxes = inner.boxes if isinstance(inner, Row) else (inner,)
        each = (width - 2 * MARGIN - GAP * (len(boxes) - 1)) // len(boxes)
        for number, one in enumerate(boxes):
            yield from draw(one, x + MARGIN + number * (each + GAP), below, each, level + 1)
        below += inner.height + GAP


def text() -> str:
    """The whole picture."""
    size = f'width="{WIDTH}" height="{TREE.height + 2}" viewBox="0 0 {WIDTH} {TREE.height + 2}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "  <title>The tree of tasks: each box is over before the one around it</title>",
            f"  <style>\n{STYLE}\n  </style>",
            *draw(TREE, 1, 1, WIDTH - 2, 0),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(text(), encoding="utf-8")
