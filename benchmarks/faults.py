"""Count how many hand-made faults the fast tests find: `python -m benchmarks.faults`.

Each fault of faults.toml is put into a copy of the working tree, and its tests run until one fails. A fault that no
test finds is printed as missed. Takes up to a minute per fault on two cores. The last line is JSON.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IGNORED = (".venv", ".git", "demo-data", "dist", "__pycache__", "*_cache", ".hypothesis")


def finds(fault: dict[str, Any], root: Path) -> bool:
    """Return whether a test of the fault fails with it.

    Raises:
        SystemExit: If the text to replace does not occur exactly once in the file, or pytest could not run.
    """
    path = root / fault["file"]
    text = path.read_text(encoding="utf-8")
    if text.count(fault["old"]) != 1:
        raise SystemExit(f"{fault['file']}: got {text.count(fault['old'])} times {fault['old']!r}, expected once")
    path.write_text(text.replace(fault["old"], fault["new"]), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        for tests in fault["tests"]:
            process = subprocess.run([*command, tests], cwd=root, capture_output=True, check=False)  # noqa: S603  # this interpreter
            code = process.returncode
            if code not in (0, 1, 2, 5):  # 1: a test failed, 2: the fault breaks an import, 5: all its tests are slow
                raise SystemExit(f"{tests}: pytest ended with exit code {code}, expected 0, 1, 2 or 5; check the path")
            if code in (1, 2):
                return True
        return False
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """Try every fault, print what was found, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="Only faults of files whose path contains this text.")
    only = parser.parse_args().only
    listed = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["fault"]
    faults = [fault for fault in listed if only in fault["file"]]
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=shutil.ignore_patterns(*IGNORED)))
        for fault in faults:
            hit = finds(fault, root)
            found += hit
            print(f"{'found ' if hit else 'MISSED'} {fault['file']}: {fault['meaning']}", flush=True)
    print(json.dumps({"faults": len(faults), "found": found}))


if __name__ == "__main__":
    main()
