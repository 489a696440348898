"""The code blocks of a page of the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LANGUAGES = ("python", "bash", "yaml", "json", "text")

_FENCE = re.compile(r"^( *)(`{3,})(.*)$")
_MARKER = re.compile(r"\s*<!-- (only parsed|prints): ?(.*?) ?-->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page (`Path`): Where it stands.
        line (`int`): Line of its first line, from 1.
        language (`str`): What the fence says.
        text (`str`): Its lines, without the fence's indentation.
        only_parsed (`str`, *optional*): Why it is not run, by the comment `<!-- only parsed: why -->` above it.
        prints (`bool`): Whether it is what the block before it prints, by `<!-- prints: -->`.
    """

    page: Path
    line: int
    language: str
    text: str
    only_parsed: str | None = None
    prints: bool = False

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks, in order. Raises `ValueError` for a fence that is not closed and an empty reason."""
    lines = page.read_text(encoding="utf-8").split("\n")
    blocks: list[Block] = []
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        number += 1
        if opened is None:
            continue
        indent, fence, language = opened.groups()
        first = number
        while number < len(lines) and lines[number].strip() != fence:
            number += 1
        if number == len(lines):
            raise ValueError(f"{page.name}:{first}: this fence is not closed")
        marker = _MARKER.match(lines[first - 2]) if first >= 2 else None
        kind, reason = marker.groups() if marker else (None, None)
        if kind == "only parsed" and not reason:
            raise ValueError(f"{page.name}:{first}: say why this block is only parsed")
        text = "\n".join(line.removeprefix(indent) for line in lines[first:number]) + "\n"
        only_parsed = reason if kind == "only parsed" else None
        blocks.append(Block(page, first + 1, language.strip(), text, only_parsed, kind == "prints"))
        number += 1
    return blocks
