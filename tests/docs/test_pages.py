"""Every block of the documentation runs, or says why it is only parsed.

The blocks of a page run in order, Python in one namespace, in a folder of tiny models (see `workshop`). Shell commands run
in this process.
"""

from __future__ import annotations

import contextlib
import io
import json

import pytest
import yaml
from docs.page_blocks import DOCS, LANGUAGES, PAGES, ROOT, Block, blocks_of
from docs.shell_blocks import check_command, commands_of, inside, run_command

RUN = ("python", "bash")


def run_block(block: Block, namespace: dict) -> str:
    """What the block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if block.language == "python":
            # Lines are counted as in the page, so that a traceback leads there.
            exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), namespace)
        else:
            for words in commands_of(block):
                run_command(words)
    return printed.getvalue()


def named(pages):
    return [pytest.param(page, id=page.relative_to(DOCS).as_posix()) for page in pages]


@pytest.mark.parametrize(
    "page", named(page for page in PAGES if any(block.language in RUN for block in blocks_of(page)))
)
def test_the_blocks_of_a_page_run(page, workshop):
    namespace: dict = {"__name__": "__main__"}
    printed = ""
    with inside(workshop):
        for block in blocks_of(page):
            if block.prints:
                for line in block.text.splitlines():
                    assert line in printed.splitlines(), block.place
            elif block.language in RUN and block.only_parsed is None:
                try:
                    printed = run_block(block, namespace)
                except Exception as error:
                    raise AssertionError(f"{block.place}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("page", named(page for page in PAGES if blocks_of(page)))
def test_blocks_are_of_known_kinds_and_can_be_parsed(page):
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language!r}"
        if block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "python":
            compile(block.text, block.place, "exec")
        elif block.language == "bash":
            for words in commands_of(block):
                try:
                    check_command(words)
                except (Exception, SystemExit) as error:
                    raise AssertionError(f"{block.place}: {error!r}") from error


def test_the_call_and_the_command_of_generating_make_the_same_views(workshop):
    call, command = [block for block in blocks_of(DOCS / "generating.md") if block.language in RUN][:2]
    with inside(workshop):
        run_block(call, {"__name__": "__main__"})
        run_block(command, {})
    first, second = (
        [file.read_bytes() for file in sorted((workshop / "out" / name / "images").iterdir())]
        for name in ("rock", "same-rock")
    )
    assert len(first) == 3
    assert first == second


def test_a_block_that_does_not_run_or_parse_is_found(workshop):
    page = workshop / "page.md"
    page.write_text(
        "<!-- only parsed: a reason -->\n```bash\nmvcustom generate --no-such-option\n```\n\n```python\n1 / 0\n```\n"
    )
    parsed, run = (
        Block(ROOT / "page.md", *rest)
        for rest in ((block.line, block.language, block.text, block.only_parsed) for block in blocks_of(page))
    )
    assert parsed.only_parsed == "a reason"
    with pytest.raises(Exception, match="no-such-option"):
        check_command(commands_of(parsed)[0])
    assert run.line == 7
    with pytest.raises(ZeroDivisionError):
        run_block(run, {})
