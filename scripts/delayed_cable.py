#!/usr/bin/env python3
"""delayed_cable.py NAMESPACE NAMESPACE MILLISECONDS: an Ethernet cable between two network namespaces that takes so long
in each direction. Each gets a device eth0, whose frames this process carries over until it is ended. For kernels without
netem; needs root and /dev/net/tun. Prints a line when the cable is there."""
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0002, 0x1000, 0x40000000
LONGEST_FRAME = 65536


def make_end(namespace):
    """A file whose reads and writes are the frames that eth0 of the namespace sends and receives."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{namespace}") as target:
        if libc.setns(target.fileno(), CLONE_NEWNET) != 0:
            sys.exit(f"delayed_cable.py: cannot enter {namespace}: {os.strerror(ctypes.get_errno())}")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
    return end


def carry(ends, delay):
    """Forever: what comes out of one end goes into the other one after the delay, in order."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    on_the_way = deque()
    while True:
        wait = max(0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        readable, _, _ = select.select(ends, [], [], wait)
        for end in readable:
            try:
                while True:
                    on_the_way.append((time.monotonic() + delay, other[end], os.read(end, LONGEST_FRAME)))
            except BlockingIOError:
                pass
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, end, frame = on_the_way.popleft()
            try:
                os.write(end, frame)
            except OSError:
                pass  # a cable loses what cannot be received


def main():
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    ends = [make_end(namespace) for namespace in sys.argv[1:3]]
    print("there", flush=True)
    carry(ends, float(sys.argv[3]) / 1000)


main()
