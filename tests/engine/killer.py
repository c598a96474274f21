"""Run by test_resume in a process of its own: python killer.py SEED KILLS OUT [arguments of `ddetr train`].

Trains in child processes, which are killed with SIGKILL after a random while and go on with --resume, and at last in
one that may finish. Prints how many were killed, and how many were caught while they wrote a file.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from ddetr.cli import main


def train(arguments: list[str], out: Path) -> int:
    """Start or resume in a fork, which has nothing to import any more; returns its process id."""
    resume = ["--resume"] if (out / "settings.json").exists() else []
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status = 3
    try:
        status = main([*arguments, "--out", str(out), *resume])
    finally:
        os._exit(status)


def finished(child: int, seconds: float, half_written: Path | None = None) -> bool:
    """Whether the child ended by itself, without an error, within so many seconds; otherwise it is killed.

    half_written: a folder; wait on, until a checkpoint is being written there.
    """
    deadline = time.monotonic() + seconds
    stale = _half_written(half_written)
    while time.monotonic() < deadline or (half_written and not _half_written(half_written) - stale):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"the training failed with status {status}"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _half_written(folder: Path | None) -> set[Path]:
    return set(folder.glob(".checkpoint.pt.*")) if folder else set()


def work(seed: int, kills: int, out: Path, arguments: list[str]) -> None:
    draw = random.Random(seed)
    killed = writing = 0
    for n in range(kills):
        seconds = draw.uniform(0.05, 0.8)
        if finished(train(arguments, out), seconds, out if n % 2 else None):
            break
        killed += 1
        writing += n % 2
    assert finished(train(arguments, out), 120)
    print(killed, writing)


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
