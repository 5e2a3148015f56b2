"""Run a process per model, single-threaded and with the allocator settings of training."""

import concurrent.futures
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from demo import contrastive

ROOT: Final = Path(__file__).resolve().parent.parent.parent


def run_each(
    module: str, names: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str], jobs: int | None = None
) -> None:
    """Run `python -m MODULE --only NAME` for each name.

    Args:
        module: the module to run.
        names: the names of the models.
        arguments: further arguments of the command.
        environment: variables added to those of this process. Variables of Prefect are not inherited, and each process
            gets a new Prefect home.
        jobs: number of concurrent processes; one per core by default.

    Raises:
        RuntimeError: if a process failed; the others are finished first.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    shared = inherited | contrastive.ALLOCATOR_SETTINGS | {"OMP_NUM_THREADS": "1"} | dict(environment)

    def work(name: str) -> int:
        command = [sys.executable, "-m", module, "--only", name, *arguments]
        with tempfile.TemporaryDirectory() as home:
            own = shared | {"PREFECT_HOME": home}
            return subprocess.run(command, cwd=ROOT, env=own, check=False).returncode  # noqa: S603  # this interpreter

    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        codes = list(pool.map(work, names))
    if failed := [name for name, code in zip(names, codes, strict=True) if code]:
        raise RuntimeError(f"{module} failed for {', '.join(failed)}: see the output above; run it again to resume")
