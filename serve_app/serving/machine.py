"""What `plainmed serve` checks on this machine before it starts Ray: its CPUs and its port.

Knows no Ray and no Serve config.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from serve_app.core.errors import ConfigError


def fitting_cpus(asked: Mapping[str, Mapping[str, float]], machine: Mapping[str, float]) -> int:
    """How many CPUs Ray is to count, so that the first replicas of every deployment start.

    Replicas may ask for up to twice the CPUs of the machine; they then share them, and that is
    said on standard error.

    Args:
        asked: as `least_resources` gives it.
        machine: what the machine has, by the same names.

    Raises:
        ConfigError: they ask for more, so that Serve would wait for ever.
    """
    for kind, has in machine.items():
        total = round(sum(one.get(kind, 0) for one in asked.values()), 3)
        if total > has * (2 if kind == "CPU" else 1):
            parts = ", ".join(f"{name} {one[kind]:g}" for name, one in asked.items() if one[kind])
            raise ConfigError(
                f"the deployments ask for {total:g} {kind}s ({parts}), this machine has {has:g}: "
                f"lower num_{kind.lower()}s or the replicas in the Serve config, or serve one half "
                "with --services"
            )
        if total > has:
            print(
                f"warning: the deployments ask for {total:g} CPUs and this machine has {has:g}, so "
                "they share them and answer later",
                file=sys.stderr,
            )
    return max(int(machine["CPU"]), math.ceil(sum(one["CPU"] for one in asked.values()) - 1e-9))


@contextmanager
def reserved(host: str, port: int) -> Iterator[None]:
    """Holds a port that Serve is going to listen on: only what shares it, as Serve does, may too.

    Serve's own sockets share their port (SO_REUSEPORT), so a second server would start as well, and
    the two would answer in turns.

    Raises:
        ConfigError: something listens there, another PlainMed is about to, or the address is not
            this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET  # as Serve chooses it
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a restart
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        what = "another program uses it" if taken else error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {host}:{port}: {what}; choose another with --host and --port (or "
            "HOST and PORT)"
        ) from None
    with socket.socket(family) as holder:
        if os.environ.get("SERVE_SOCKET_REUSE_PORT_ENABLED", "1") == "1":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with suppress(OSError):  # connections of an earlier program may block it for a minute
                holder.bind((host, port))
        yield
