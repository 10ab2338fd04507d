"""The tests themselves can reach nothing outside this machine."""

import socket
import subprocess
import sys

import pytest


def test_the_test_process_cannot_reach_the_network():
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_a_process_started_by_a_test_cannot_reach_the_network():
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "no network" in done.stderr


def test_loopback_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()


def test_the_machines_own_address_stays_open():
    import sitecustomize

    assert sitecustomize._own("127.0.0.1") and not sitecustomize._own("192.0.2.1")
