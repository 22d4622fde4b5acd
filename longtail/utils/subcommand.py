"""Running this program's own commands from others that are made of several."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence


def run_subcommand(
    name: str, options: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """Print ``longtail NAME OPTIONS`` and run it in a process of its own.

    Args:
        name: of the command.
        options: its arguments.
        environment: of the process; by default this one's.

    Raises:
        SystemExit: the command has failed, and has said why.
    """
    print(f"\n$ longtail {shlex.join([name, *options])}", flush=True)
    command = [sys.executable, "-m", "longtail", name, *options]
    code = subprocess.run(command, env=environment).returncode
    if code:
        raise SystemExit(f"error: longtail {name} ended with exit code {code}, see above")
