import os
import socket
from pathlib import Path

import pytest

from keyvigil_cli.loopback import LOOPBACK, free_port, listening_addresses

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(address: str, state: str, inode: int) -> str:
    return f"   0: {address} 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return a ``/proc`` in which process 7 has the sockets 1, 2, 3 and a file."""
    descriptors = tmp_path / "7" / "fd"
    descriptors.mkdir(parents=True)
    for number in (1, 2, 3):
        (descriptors / str(number)).symlink_to(f"socket:[{number}]")
    (descriptors / "4").symlink_to("/dev/null")
    (tmp_path / "7" / "net").mkdir()
    return tmp_path


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server((LOOPBACK, free_port())) as server:
        assert server.getsockname()[0] == LOOPBACK


def test_only_the_process_s_own_listening_sockets_count(proc: Path) -> None:
    table = HEADER + row("0100007F:1F90", "0A", 1) + row("0200007F:0050", "01", 2) + row("0300007F:0050", "0A", 99)
    (proc / "7/net/tcp").write_text(table, encoding="ascii")
    assert listening_addresses(7, proc) == {"127.0.0.1"}


def test_every_interface_is_seen_for_ipv4_and_ipv6(proc: Path) -> None:
    (proc / "7/net/tcp").write_text(HEADER + row("00000000:22B3", "0A", 1), encoding="ascii")
    six = row(f"{'0' * 24}01000000:22B3", "0A", 2) + row(f"{'0' * 32}:22B3", "0A", 3)
    (proc / "7/net/tcp6").write_text(HEADER + six, encoding="ascii")
    assert listening_addresses(7, proc) == {"0.0.0.0", "::1", "::"}  # noqa: S104 - that is the point


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert listening_addresses(7, tmp_path) == set()


def test_our_own_socket_is_seen_where_the_system_tells_of_sockets() -> None:
    before = listening_addresses(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[0] == "127.0.0.1"
        seen = listening_addresses(os.getpid())
    # A system without /proc tells nothing, and then nothing is claimed.
    assert seen == (before | {"127.0.0.1"} if Path("/proc/self/net/tcp").exists() else set())
