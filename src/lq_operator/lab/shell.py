"""Running other programs: bounded, with their words in the error."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence

from lq_operator.lab.errors import CommandFailedError


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 60,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end and capture both outputs. With `check`, a failure or a time-out raises CommandFailedError."""
    try:
        done = subprocess.run(
            list(argv),
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env=None if env is None else dict(env),
            cwd=cwd,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailedError(f"`{shlex.join(argv)}` gave no result within {timeout_s:g} s") from error
    except FileNotFoundError as error:
        raise CommandFailedError(f"`{argv[0]}` is not installed; `lq-operator lab up` names the package") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise CommandFailedError(f"`{shlex.join(argv)}` failed with status {done.returncode}: {said}")
    return done
