"""Getting original files: commands and downloads that do not hang."""

import contextlib
import io
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path


def command(arguments: list[str], folder: Path, telling: int = -1) -> None:
    """Run a command in a folder. Raises RuntimeError if it cannot, and SubprocessError after five minutes.

    telling: which line of what it complains says most; apt's last does, npm's first.
    """
    try:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)
    except OSError as error:
        raise RuntimeError(f"{arguments[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{arguments[0]}: {lines[telling]}")


@contextlib.contextmanager
def impatient(seconds: float = 20) -> Iterator[None]:
    """torchvision's downloads know no timeout and print; here an unanswered connection gives up, in silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
