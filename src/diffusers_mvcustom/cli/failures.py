"""How a command that fails says so: one line, whatever the error."""

from __future__ import annotations

import re

_LONGEST = 1000
"""Characters of a message at most: what was given may be a whole file."""


_IN_OPTIONS = (
    (r"Pass views_at_a_time=(\d+)", r"Give --views-at-a-time \1"),
    (r"Pass height=(\d+), width=(\d+)", r"Give --height \1 --width \2"),
    (r"or pass height= and width=\.", "or give --height and --width."),
    (r"pass height= and width= \(--height and --width\)", "give --height and --width"),
    (r"height, width: (a RealEstate10K file .*); give both\.", r"--height, --width: \1; give both."),
    (r"for example by Cameras\.cover, ", ""),
    (r"or take it out with unload_subject\(\)", "or leave --subject out"),
    (r"masks='none'", "--masks none"),
    (r"call load_subject first", "name one with --subject"),
    (r"Pass motion_adapter=MotionAdapter\.from_pretrained\(\.\.\.\)", "Name one with --motion-adapter"),
    (
        r"Load it with them, pass anchor_depth=, or hooks=\[\]",
        "Name one with --depth-model, or give --no-dfr --no-clc",
    ),
    (
        r"subject\.config\.subject_frame\.to_subject\(cameras\), or --cameras-frame user of the command, brings",
        "--cameras-frame user brings",
    ),
    (
        r"load_cameras\(file, convention='opencv'\) takes one that was written otherwise",
        "mvcustom cameras convert FILE NEW.json --convention opencv mends one that was written with OpenCV axes",
    ),
    (r"Name their convention, or flip the", "Name it with mvcustom cameras convert --convention opencv, or flip the"),
    (
        r"\(colmap image_undistorter, or load_capture and undistort_image\)",
        "(mvcustom prepare, or colmap image_undistorter)",
    ),
)
"""What messages say in Python, and how the command says the same."""


def in_options(message: str) -> str:
    """A message of the package with the command's options in place of arguments and calls in Python."""
    for python, command in _IN_OPTIONS:
        message = re.sub(python, command, message)
    return message


_KNOWN_CAUSES = (
    (
        r"operator torchvision::\w+ does not exist",
        "torchvision belongs to another torch than the one that is installed; install the torchvision of this torch, or "
        "pip uninstall torchvision, which nothing here needs but some metrics",
    ),
)
"""What unexpected errors come from, and what to do."""


def failure_line(program: str, error: BaseException) -> str:
    """One printable line about an error.

    An unexpected one is named by its class, with the error that it came from and the way to its traceback.
    """
    message = in_options(" ".join(str(error).split()))
    if not isinstance(error, (ValueError, OSError)):
        name = type(error).__name__
        message = f"{name}: {message} ({_first_cause(error)}--debug shows where)" if message else name
    # Names of files may hold anything, control sequences for the terminal among it.
    message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return f"{program}: {message or type(error).__name__}"


def _first_cause(error: BaseException) -> str:
    """What an unexpected error came from in the beginning, if that is another error, and what to do if that is known."""
    cause, passed = error, {id(error)}
    while (before := cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)) is not None:
        if id(before) in passed:
            break
        passed.add(id(before))
        cause = before
    said = " ".join(str(cause).split())
    if cause is error or not said or said in str(error):
        return ""
    known = next((f": {advice}" for pattern, advice in _KNOWN_CAUSES if re.search(pattern, said)), "")
    return f"because of {type(cause).__name__}: {said}{known}; "
