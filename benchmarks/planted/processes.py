"""One process a model: each single-threaded, with the allocator settings that keep weights the same, and apart."""

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
    module: str, names: Sequence[str], given: Sequence[str], environment: Mapping[str, str], jobs: int | None = None
) -> None:
    """Call `python -m MODULE --only NAME` for each name, so many at a time (default: one a core).

    given: further arguments. environment: added to that of this process, less its settings of Prefect, whose home is
    one of each process's own.

    Raises:
        RuntimeError: when one failed; the others are finished first.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    shared = inherited | contrastive.ALLOCATOR_SETTINGS | {"OMP_NUM_THREADS": "1"} | dict(environment)

    def work(name: str) -> int:
        command = [sys.executable, "-m", module, "--only", name, *given]
        with tempfile.TemporaryDirectory() as home:
            own = shared | {"PREFECT_HOME": home}
            return subprocess.run(command, cwd=ROOT, env=own, check=False).returncode  # noqa: S603  # this Python

    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        codes = list(pool.map(work, names))
    if failed := [name for name, code in zip(names, codes, strict=True) if code]:
        raise RuntimeError(f"{module} failed for {', '.join(failed)}: see the lines above; call again to go on")
