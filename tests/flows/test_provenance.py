"""The code version changes with the packages, and with nothing else."""

import subprocess

from flows import provenance


def test_the_code_version_is_that_of_the_packages(tmp_path, monkeypatch):
    def git(*arguments):
        own = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True)  # noqa: S607

    for name in ("flows/provenance.py", "sql/a.sql", "prefect.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "flows" / "provenance.py"))
    assert "+" not in provenance.code_version()  # not a checkout
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    first = provenance.code_version()
    assert "+g" in first
    (tmp_path / "prefect.yaml").write_text("2")
    assert provenance.code_version() == first
    git("commit", "-am", "settings")
    assert provenance.code_version() == first
    (tmp_path / "sql" / "a.sql").write_text("2")
    dirty = provenance.code_version()
    assert dirty.startswith(f"{first}.dirty.")
    (tmp_path / "sql" / "a.sql").write_text("3")
    assert provenance.code_version() not in (first, dirty)
    git("commit", "-am", "packages")
    assert provenance.code_version().partition(".dirty")[0] != first
