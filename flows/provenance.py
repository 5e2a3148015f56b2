"""Code version and environment of a run, as its manifest stores them."""

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import m2ib.version

PACKAGES = ("flows", "tasks", "m2ib", "corpora", "sql", "review", "stores")


def code_version() -> str:
    """Return the package's version, with the commit in a git checkout (`.dirty` and a digest if files were changed)."""
    root = Path(__file__).resolve().parent.parent
    version = m2ib.version.__version__
    if not (root / ".git").exists():
        return version
    try:
        described = subprocess.run(  # fixed arguments
            ["git", "describe", "--always", "--dirty=.dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607
            cwd=root, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return version
    commit = described.stdout.strip()
    return f"{version}+g{commit}" + (f".{_source_digest(root)}" if commit.endswith(".dirty") else "")


def _source_digest(root: Path) -> str:
    """Return a digest of the packages' files, which distinguishes uncommitted states."""
    sha = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".sql", ".j2", ".css", ".typ"):
                sha.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return sha.hexdigest()[:12]


def environment() -> dict[str, str]:
    """Return the versions of Python and of packages that can change results."""
    packages = ("torch", "open_clip_torch", "pillow", "numpy", "duckdb", "pyarrow", "great-expectations", "prefect")
    return {"python": platform.python_version(), "machine": platform.machine()} | {
        name: metadata.version(name) for name in packages
    }
