"""The pages of the documentation as tests read them: fences with what stands above them, headings, code spans."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs

from program import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(
    r"^(?:<!-- (?P<comment>[^\n]*) -->\n+)?(?:\*\*`(?P<file>[^`]+)`\*\*\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@attrs.frozen
class Fence:
    """A fenced block: its language, its text, and what stands right above it.

    ``file`` is set where that is a file's name in bold code: the block is the whole file. ``comment`` is an HTML
    comment, which readers do not see.
    """

    page: Path
    line: int
    language: str
    text: str
    file: str | None
    comment: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text[: match.start("text")].count("\n") + 1
        yield Fence(page, line, match["language"], match["text"], match["file"], match["comment"])


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def fragments(page: Path) -> set[str]:
    """What a link to the page may have behind ``#``: its headings as GitHub makes fragments of them."""
    found: Counter[str] = Counter()
    names = set()
    for title in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def code_spans(page: Path, *, without_left_column: bool = False) -> list[str]:
    """The texts in backticks, outside of fenced blocks; if wanted, without those in the first column of tables."""
    text = prose(page)
    if without_left_column:
        text = re.sub(r"^\|(?:`[^`]*`|[^|`])*\|", "", text, flags=re.MULTILINE)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def assert_as_printed(found: object, printed: object) -> None:
    """Equal, but for printed strings that are cut short, such as ids that are new each time, and the order of keys."""
    if isinstance(printed, dict) and isinstance(found, dict):
        assert sorted(found) == sorted(printed), f"{found} where {printed} is printed"
        for key, value in printed.items():
            assert_as_printed(found[key], value)
    elif isinstance(printed, list) and isinstance(found, list):
        assert len(found) == len(printed), f"{found} where {printed} is printed"
        for one, other in zip(found, printed, strict=True):
            assert_as_printed(one, other)
    elif isinstance(printed, str) and printed.endswith("…"):
        assert isinstance(found, str)
        assert len(found) >= len(printed), f"{found!r} where {printed!r} is printed"
    else:
        assert found == printed, f"{found!r} where {printed!r} is printed"
