"""Where to listen."""

from __future__ import annotations

import socket

from ..errors import MVCustomError


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
