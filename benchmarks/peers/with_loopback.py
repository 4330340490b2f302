"""Brings loopback up in the network namespace that this runs in, then becomes the command that it was given.

unshare --user --map-root-user --net python with_loopback.py COMMAND ...
"""

import fcntl
import os
import socket
import struct
import sys

_SIOCSIFFLAGS, _UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h

if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _UP))
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
