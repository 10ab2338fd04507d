"""Refuse every connection that leaves this machine, in this process and in every Python process it starts.

The test session puts this folder on PYTHONPATH, so kernels and subprocesses of the tests load it at their start.
"""

import ipaddress
import socket

_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _local(host):
    if host in ("", "localhost", None) or isinstance(host, bytes):
        return host != b""
    try:
        return ipaddress.ip_address(host).is_loopback or _own(host)
    except ValueError:
        return host == socket.gethostname()


def _own(address):
    """Is it this machine's? Only those can be bound. (Ray talks to itself over the machine's own address.)"""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _guard(address):
    if isinstance(address, tuple) and not _local(address[0]):
        raise OSError(f"the tests allow no network: {address}")


def connect(self, address):
    _guard(address)
    return _connect(self, address)


def connect_ex(self, address):
    _guard(address)
    return _connect_ex(self, address)


def getaddrinfo(host, *args, **kwargs):
    _guard((host,))
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect = connect
socket.socket.connect_ex = connect_ex
socket.getaddrinfo = getaddrinfo
