"""Ends the launcher's children when the launcher itself is killed.

Python-backend workers outlive their server and ignore SIGTERM, so a launcher that dies by SIGKILL would leave them
holding the GPU. This process reads lines from a pipe whose other end only the launcher holds:

    <process group id>      remember this group
    -<process group id>     it has ended

and at the end of the input kills the remembered groups and removes their shared memory. Run by `python -m standalone`.
"""

from __future__ import annotations

import signal
import sys

from standalone.processes import kill_group, remove_shared_memory
from standalone.signals import ENDING


def main(shm_prefix: str) -> None:
    for ignored in ENDING:
        signal.signal(ignored, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        if number > 0:
            groups.add(number)
        else:
            groups.discard(-number)
    for pgid in groups:
        kill_group(pgid)
    remove_shared_memory(shm_prefix)


if __name__ == "__main__":
    main(sys.argv[1])
