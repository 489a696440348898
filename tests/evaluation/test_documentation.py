"""What docs/evaluation.md shows in Python runs as it stands."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_python_in_the_documentation_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "docs/evaluation.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "3 views registered" in printed
    assert "| camera pose accuracy ↑" in printed
    assert "no prompt is known" in printed
    assert "'pairs': 6" in printed
