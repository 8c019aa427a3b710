"""Ports of the loopback address, and proof that a process can be reached through nothing else."""

import contextlib
import ipaddress
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

_LISTEN = "0A"  # TCP_LISTEN, https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html
_DOCUMENTATION_ADDRESS = ("192.0.2.1", 9)  # RFC 5737: never in use
_CONNECT_SECONDS = 1.0


def free_port() -> int:
    """Return a port of the loopback address that nobody listened on a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def outside_addresses(pid: int, port: int) -> set[str]:
    """Return the addresses other than the loopback one at which a process can be reached.

    Linux says on what a process listens. Elsewhere only ``port`` is tried, at this machine's own address.
    """
    found = {address for address in listening_addresses(pid) if not ipaddress.ip_address(address).is_loopback}
    own = _own_address()
    if own is not None and _answers(own, port):
        found.add(own)
    return found


def listening_addresses(pid: int, proc: Path = Path("/proc")) -> set[str]:
    """Return the addresses on which a process listens for TCP; empty where there is no ``/proc``."""
    inodes = set()
    for link in (proc / str(pid) / "fd").glob("*"):
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target.removeprefix("socket:[").rstrip("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in (proc / str(pid) / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and fields[9] in inodes:
                    found.add(_address_of(fields[1].partition(":")[0]))
    return found


def _address_of(digits: str) -> str:
    # Each 32-bit word is written in the machine's byte order, which is little-endian wherever this runs.
    raw = b"".join(bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8))
    return str(ipaddress.ip_address(raw))


def _own_address() -> str | None:
    """Return the address this machine would use to reach others; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_DOCUMENTATION_ADDRESS)
        except OSError:
            return None  # no network: nobody else could reach anything
        address: str = probe.getsockname()[0]
    return None if ipaddress.ip_address(address).is_loopback else address


def _answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), _CONNECT_SECONDS):
        return True
    return False
