"""A network of its own with one wire to this one, which a test may cut: a real partition, where the machine allows it.

with apart() as network:
    network.words      # before a command that is to run there
    network.address    # where it reaches us
    network.cut()
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex

__all__ = ["Apart", "apart"]


@dataclass(frozen=True)
class Apart:
    """
    Attributes:
        words: before a command that is to run there.
        address: ours, as it is seen from there.
        wire: the name of our end.
    """

    words: tuple[str, ...]
    address: str
    wire: str

    def cut(self) -> None:
        """Nothing passes, and nobody is told."""
        _ip("link", "set", self.wire, "down")

    def mend(self) -> None:
        _ip("link", "set", self.wire, "up")


@contextmanager
def apart() -> Iterator[Apart | None]:
    """None where namespaces cannot be made: without root's rights, or without iproute2."""
    name, third = f"sparklio{token_hex(3)}", 1 + os.getpid() % 250
    ours, theirs = f"v{name[-6:]}a", f"v{name[-6:]}b"
    if shutil.which("ip") is None or not _may("netns", "add", name):
        yield None
        return
    try:
        if not _may("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name):
            yield None
            return
        _ip("addr", "add", f"10.213.{third}.1/30", "dev", ours)
        _ip("link", "set", ours, "up")
        _ip("-n", name, "addr", "add", f"10.213.{third}.2/30", "dev", theirs)
        _ip("-n", name, "link", "set", theirs, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield Apart(("ip", "netns", "exec", name), f"10.213.{third}.1", ours)
    finally:
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _may(*words: str) -> bool:
    return subprocess.run(["ip", *words], check=False, capture_output=True).returncode == 0
