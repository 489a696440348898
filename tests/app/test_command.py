"""`mvcustom app` before anything is loaded."""

import socket
import subprocess
import sys

import pytest

from diffusers_mvcustom.app.ports import free_port
from diffusers_mvcustom.errors import MVCustomError


def run(code):
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 2, process.stderr[-2000:]
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1, process.stderr
    return lines[0]


def test_without_gradio_it_says_what_to_install():
    """In a Python that has no gradio, as after an install without the extra."""
    said = run("import sys; sys.modules['gradio'] = None\nfrom diffusers_mvcustom.cli import main\nmain(['app'])")
    assert "pip install 'diffusers-mvcustom[app]'" in said


def test_an_unknown_dtype_is_refused():
    said = run("from diffusers_mvcustom.cli import main\nmain(['app', '--dtype', 'float8'])")
    assert "expected float32, float16 or bfloat16, got 'float8'" in said


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(mvcustom):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = mvcustom("app", "--model", "nowhere", "--port", port, code=1).stderr
    assert f"port: {port} of 127.0.0.1 cannot be had" in refused
    assert "--port" in refused


def test_a_free_port_is_one_of_this_machine():
    assert 0 < free_port("127.0.0.1") < 65536
    with pytest.raises(MVCustomError, match="no address of this machine"):
        free_port("192.0.2.1")
