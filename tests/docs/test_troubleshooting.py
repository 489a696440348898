"""The messages that troubleshooting.md explains are messages of the code."""

from __future__ import annotations

import ast
import re

import pytest
from docs.page_blocks import DOCS, ROOT

from diffusers_mvcustom.cli.failures import _IN_OPTIONS

PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.*)`$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def templates():
    """Every text of the package, with … for what is filled in."""
    found = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def is_among(message, templates):
    """Whether the parts of a message between its … follow each other in one of the texts."""
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    return any(pattern.search(template) for template in templates)


def test_there_are_messages():
    assert len(MESSAGES) > 30


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_says_so(message, templates):
    assert is_among(message, templates)


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in _IN_OPTIONS])
def test_what_commands_say_in_options_is_said(pattern, templates):
    """A phrase that nobody says any more would be translated no more, unnoticed."""
    said = [template.replace("…", "7") for template in templates if template != pattern]
    assert any(re.search(pattern, text) for text in said)


def test_a_message_that_nobody_says_is_found(templates):
    assert not is_among("cameras: expected … unicorns", templates)
