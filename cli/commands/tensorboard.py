"""`opsin tensorboard`: TensorBoard on the logs of all trainings, or of one."""

import importlib.util
import os
import sys
import types

from cli.output import CommandError, notes
from contracts.settings import Settings


def tensorboard(settings: Settings, job: str | None, port: int) -> None:
    """Becomes TensorBoard, until Ctrl-C.

    Raises:
        CommandError: It is not installed, or there is no such log.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise CommandError("TensorBoard is not installed: pip install 'opsin[worker]'.")
    logs = settings.event_logs_home
    known = sorted(path.name for path in logs.iterdir()) if logs.is_dir() else []
    if not known:
        raise CommandError("There are no logs yet; a training writes them as it runs.")
    if job is not None and job not in known:
        raise CommandError(f"There is no log of '{job}'. Known: {', '.join(known[-5:])}.")
    folder = logs / job if job else logs
    notes().print(f"TensorBoard at http://127.0.0.1:{port}; Ctrl-C stops it.")
    # In place of this process: it then gets the terminal's signals, and nothing is left behind.
    os.execv(  # noqa: S606  this Python, with arguments of our own
        sys.executable,
        [
            *(sys.executable, "-P", "-m", "cli.commands.tensorboard", "--logdir", str(folder)),
            *("--host", "127.0.0.1", "--port", str(port)),
            # Read by a program of its own, which is there at once and takes little memory.
            *("--load_fast", "auto", "--reload_multifile", "true"),
        ],
    )


def _serve() -> None:
    """Runs TensorBoard without TensorFlow, which it would load for the sake of file names.

    That takes half a minute on a busy machine and half a gigabyte. Where a module of this name is,
    TensorBoard takes the few functions that it needs from a small copy of its own
    (`tensorboard.compat.tf`).
    """
    sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
    from tensorboard.main import run_main  # slow to load

    run_main()


if __name__ == "__main__":
    _serve()
