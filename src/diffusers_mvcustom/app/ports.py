"""Where to listen."""

from __future__ import annotations

import socket

from ..errors import MVCustomError


def check_port(host: str, port: int) -> None:
    """Raises if something listens on a port already, or it cannot be had otherwise.

    Raises:
        MVCustomError: naming the port and what to do.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise MVCustomError(
            f"port: {port} of {host} cannot be had ({error.strerror or error}); take another with --port, or 0 for a free "
            "one."
        ) from error


def free_port(host: str) -> int:
    """A TCP port that nothing listens on.

    Raises:
        MVCustomError: if the host is no address of this machine.
    """
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
            return probe.getsockname()[1]
    except OSError as error:
        raise MVCustomError(f"host: {host!r} is no address of this machine: {error}") from error
