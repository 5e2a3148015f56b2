"""Code version and environment of a run, as its manifest stores them."""

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import m2ib.version

PACKAGES = ("flows", "tasks", "m2ib", "corpora", "sql", "review", "stores")


def code_version() -> str:
    """Return the package's version, in a git checkout with the last commit that changed the packages.

    If files of the packages were changed since, `.dirty` and a digest follow. Other files do not count.
    """
    root = Path(__file__).resolve().parent.parent
    version = m2ib.version.__version__
    if not (root / ".git").exists():
        return version

    def git(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603  # fixed arguments
            ["git", *arguments, "--", *PACKAGES],  # noqa: S607
            cwd=root, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        commit = git("log", "-1", "--format=%h", "--abbrev=12")
        is_dirty = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+g{commit}" + (f".dirty.{_source_digest(root)}" if is_dirty else "")


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
