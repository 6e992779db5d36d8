"""What systemd wants to be told by a service of ``Type=notify`` (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger(__name__)
_SOCKET = "NOTIFY_SOCKET"


def notify(*lines: str) -> None:
    """Tell systemd, such as ``READY=1`` or ``WATCHDOG=1``; nothing where no systemd listens.

    Who serves goes on serving if it cannot be told: no error is raised.
    """
    address = os.environ.get(_SOCKET, "")
    if not address:
        return
    if address.startswith("@"):  # a name that is not in the file system
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _log.debug("systemd was not told %s: %s", lines, error)
