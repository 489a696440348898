"""The runner of GPU work, with trivial slices on a CPU: carrying on, failures, limits, interruption."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu import archive as archives

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(tmp_path):
    """Runs `python -m benchmarks.gpu` on slices given as Python sources (command, settings) by name."""
    folder = tmp_path / "slices"
    folder.mkdir()

    def define(**sources):
        for name, (source, settings) in sources.items():
            folder.joinpath(f"{name}.py").write_text(
                "import sys\nfrom benchmarks.gpu.slice import Slice\n\n\ndef slices(options):\n"
                f"    return [Slice({name!r}, (sys.executable, '-c', {source!r}, '{{out}}', '{{work}}'), **{settings!r})]\n"
            )

    def command(*arguments):
        return [
            sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick",
            "--slices", folder, "-o", tmp_path / "out", *arguments,
        ]  # fmt: skip

    def run(*arguments, code=0):
        process = subprocess.run(list(map(str, command(*arguments))), cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == code, process.stderr + process.stdout
        return process.stdout

    run.define, run.command, run.out = define, command, tmp_path / "out"
    run.state = lambda name: json.loads((run.out / f"{name}.state.json").read_text())
    return run


COUNT = "import pathlib, sys; p = pathlib.Path(sys.argv[1]) / '{0}.json'; p.write_text((p.read_text() if p.exists() else '') + 'x')"  # noqa: E501


def is_running(pid):
    """A process that ended and that nobody has asked for yet (a zombie) does not run."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def counted(name):
    return (COUNT.format(name), {})


def test_a_failure_is_recorded_and_the_others_run(gpu):
    gpu.define(a=counted("a"), b=("raise ArithmeticError('seven')", {}), c=counted("c"))
    gpu(code=1)
    assert [gpu.state(name)["status"] for name in "abc"] == ["done", "failed", "done"]
    failed = gpu.state("b")
    assert "Traceback" in failed["error"]
    assert "ArithmeticError: seven" in failed["error"]
    assert failed["return_code"] == 1
    for state in map(gpu.state, "abc"):
        assert "CPU" in state["environment"]["device"]
        assert state["environment"]["versions"]["torch"]
        assert state["environment"]["commit"]
    summary = (gpu.out / "summary.md").read_text()
    assert "| b | failed |" in summary


def test_what_is_done_is_not_done_again_and_what_failed_only_if_asked_for(gpu):
    gpu.define(a=counted("a"), b=(COUNT.format("b") + "; sys.exit(p.read_text() != 'xx')", {}))
    gpu(code=1)
    gpu(code=1)
    assert (gpu.out / "a.json").read_text() == (gpu.out / "b.json").read_text() == "x"
    gpu("--retry")
    assert (gpu.out / "a.json").read_text() == "x"
    assert gpu.state("b")["status"] == "done"


def test_a_new_file_is_a_new_slice(gpu):
    gpu.define(a=counted("a"))
    gpu()
    gpu.define(z=counted("z"))
    assert "z " in gpu("--list")
    gpu()
    assert (gpu.out / "a.json").read_text() == (gpu.out / "z.json").read_text() == "x"
    gpu("--only", "nothing", code=2)


def test_a_slice_ends_at_its_limit_with_all_that_it_started(gpu):
    child = "import time; time.sleep(60)"
    source = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid); p.wait()"
    gpu.define(a=(source, {"limit": 2.0}), b=counted("b"))
    gpu(code=1)
    assert gpu.state("a")["status"] == "timed out"
    assert gpu.state("b")["status"] == "done"
    pid = int((gpu.out / "a.log").read_text().split()[0])
    assert not is_running(pid)


def test_the_limit_of_the_run_stops_a_slice_and_the_next_run_carries_on(gpu):
    # Slow as long as there is no file "ready".
    slow = "import pathlib, sys, time; time.sleep(0 if (pathlib.Path(sys.argv[1]) / 'ready').exists() else 60)"
    gpu.define(a=counted("a"), b=(slow, {"expected": 0.1}), c=("pass", {"expected": 50.0}))
    gpu("--time-limit", 4, code=1)
    assert gpu.state("b")["status"] == "stopped"
    assert gpu.state("b")["seconds"] < 5
    assert not (gpu.out / "c.state.json").exists()  # expected to take longer than is left
    (gpu.out / "ready").touch()
    gpu()
    assert [gpu.state(name)["status"] for name in "abc"] == ["done"] * 3
    assert (gpu.out / "a.json").read_text() == "x"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_process_and_carries_on(gpu, number):
    gpu.define(a=("import os, time; print(os.getpid(), flush=True); time.sleep(60)", {}))
    process = subprocess.Popen(list(map(str, gpu.command())), cwd=ROOT, stdout=subprocess.PIPE)
    log, until = gpu.out / "a.log", time.monotonic() + 60
    while not (log.exists() and log.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert gpu.state("a")["status"] == "stopped"
    assert not is_running(int(log.read_text()))


def test_a_slice_whose_end_nobody_saw_is_started_again_but_not_for_ever(gpu):
    gpu.define(a=counted("a"))
    gpu()
    state = gpu.state("a")
    (gpu.out / "a.state.json").write_text(json.dumps({**state, "status": "running", "cut_off": 1}))
    gpu()
    assert (gpu.out / "a.json").read_text() == "xx"
    (gpu.out / "a.state.json").write_text(json.dumps({**state, "status": "running", "cut_off": 3}))
    gpu(code=1)
    assert (gpu.out / "a.json").read_text() == "xx"
    assert "3 times" in gpu.state("a")["error"]


def test_the_archive_holds_everything_and_a_new_folder_starts_from_it(gpu, tmp_path):
    gpu.define(a=counted("a"), b=("raise SystemExit(3)", {}))
    archive = tmp_path / "home" / "all.tar.gz"
    gpu("--archive", archive, code=1)
    with tarfile.open(archive) as packed:
        assert {"a.json", "a.state.json", "a.log", "b.state.json", "summary.md"} <= set(packed.getnames())
    gpu.out.rename(tmp_path / "lost")
    gpu("--archive", archive, code=1)
    assert (gpu.out / "a.json").read_text() == "x"
    assert [file.name for file in archive.parent.iterdir()] == ["all.tar.gz"]


def test_a_resumable_slice_goes_on_after_its_own_limit(gpu):
    # Counts its starts in the folder that outlives it; the second start is quick.
    source = "import pathlib, sys, time; p = pathlib.Path(sys.argv[2]) / 'n'; n = p.exists(); p.touch(); time.sleep(0 if n else 60)"  # noqa: E501
    for settings, statuses in (({"resumable": True}, ["stopped", "done"]), ({}, ["timed out", "timed out"])):
        name = "again" if settings else "once"
        gpu.define(**{name: (source.replace("'n'", repr(name)), {"limit": 3.0, **settings})})
        for status in statuses:
            gpu("--only", name, code=0 if status == "done" else 1)
            assert gpu.state(name)["status"] == status
    assert sorted(file.name for file in (gpu.out / "work").iterdir()) == ["again", "once"]


def test_a_large_archive_is_carried_in_parts(tmp_path):
    output, home, back = (tmp_path / name for name in ("out", "home", "back"))
    (output / "model").mkdir(parents=True)
    (output / "work").mkdir()
    (output / "work" / "checkpoint").write_bytes(b"x")
    (output / "a.json").write_text("{}")
    weights = os.urandom(archives.LARGEST_FILE + 5)
    (output / "model" / "weights").write_bytes(weights)
    archive = home / "all.tar.gz"
    assert archives.pack(output, archive, leave_out=("work",)) == []
    assert sorted(file.name for file in home.iterdir()) == ["all.tar.gz.000", "all.tar.gz.001"]
    assert max(file.stat().st_size for file in home.iterdir()) <= archives.LARGEST_FILE
    assert archives.unpack(archive, back)
    assert (back / "model" / "weights").read_bytes() == weights
    assert not (back / "work").exists()
    (output / "model" / "weights").write_bytes(b"small now")
    archives.pack(output, archive, leave_out=("work",))
    assert [file.name for file in home.iterdir()] == ["all.tar.gz"]


def test_what_is_too_large_to_be_carried_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_FILE", 10_000)
    for name, size in (("a", 20_000), ("b", 30_000)):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(os.urandom(size))
    assert archives.pack(tmp_path / "out", tmp_path / "all.tar.gz") == ["b"]
    assert archives.unpack(tmp_path / "all.tar.gz", tmp_path / "back")
    assert [file.name for file in (tmp_path / "back").iterdir()] == ["a"]
    assert not archives.unpack(tmp_path / "nothing.tar.gz", tmp_path / "back")


def test_wheels_have_to_be_there(gpu, tmp_path):
    gpu.define(a=counted("a"))
    (tmp_path / "none").mkdir()
    process = subprocess.run(
        list(map(str, gpu.command("--wheels", tmp_path / "none"))), cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "expected wheels in" in process.stderr


def test_wheels_are_what_slices_import(gpu, tmp_path):
    wheel = tmp_path / "wheels" / "carried-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("carried.py", "value = 7\n")
        packed.writestr("carried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        packed.writestr(
            "carried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr("carried-1.0.dist-info/RECORD", "carried.py,,\n")
    gpu.define(a=("import carried; print('carried', carried.value)", {}))
    gpu("--wheels", wheel.parent)
    assert (gpu.out / "a.log").read_text().split() == ["carried", "7"]


def test_slices_that_cannot_be_are_refused(gpu):
    gpu.define(a=("pass", {"limit": 3600.0}))
    process = subprocess.run(list(map(str, gpu.command())), cwd=ROOT, capture_output=True, text=True)
    assert process.returncode
    assert "expected a limit of at most 580 s, got 3600" in process.stderr


def test_what_is_important_comes_first(gpu):
    gpu.define(a=("pass", {}), b=("pass", {"important": True}), c=("pass", {}), d=("pass", {"important": True}))
    assert [line.split()[0] for line in gpu("--list").splitlines()] == ["b", "d", "a", "c"]


@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_the_real_slices_are_listed(quick):
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--list", *quick],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [line.split()[0] for line in listed.splitlines()]
    assert names
    assert len(set(names)) == len(names)
