"""Files that were erased stay erased: `verify` reports those that come back, and reports that vanish afterwards."""

import shutil

import pytest

from review.evidence.verify import verify
from tasks.lake.erase import PLAN, erase
from tasks.lake.journal import record_report
from tasks.lake.plan_erasure import plan_erasure


@pytest.fixture
def backup(runs, tmp_path):
    """The lake as it was before a pair, a text and the reports were erased from it."""
    lake = runs[0].lake
    backup = shutil.copytree(lake, tmp_path / "backup")
    erasure, _ = plan_erasure(lake, ["pair-0000"], None, ["marker"], "the privacy officer", "DSR-1")
    list(erase(lake, erasure))
    return backup


def list_faults(lake):
    return {each.file: each.description for each in verify(lake, "all").differences}


def list_erased(lake, backup):
    names = sorted(path.relative_to(backup).as_posix() for path in backup.rglob("*") if path.is_file())
    return [name for name in names if not (lake / name).exists()]


def test_every_erased_file_that_is_restored_from_a_backup_is_a_difference(runs, backup):
    lake = runs[0].lake
    assert list_faults(lake) == {}
    erased = list_erased(lake, backup)
    for part in ("ledger/texts/", "report.html", "/pairs/", "/attributions/"):
        assert any(part in name for name in erased)
    for name in erased:
        shutil.copy(backup / name, lake / name)
    faults = list_faults(lake)
    assert sorted(faults) == erased
    assert all("was erased on" in text and "delete it" in text for text in faults.values())
    for name in erased:
        (lake / name).unlink()
    assert list_faults(lake) == {}


@pytest.mark.parametrize("name", ["report-old.html", "parts/attribute-00000-abc.json", ".report.html.tmp"])
def test_an_erased_report_under_another_name_is_a_difference(runs, backup, name):
    path = runs[0].folder / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(backup / "runs" / runs[0].run_id / "report.html", path)
    ((file, what),) = list_faults(runs[0].lake).items()
    assert (file, "was erased on" in what) == (f"runs/{runs[0].run_id}/{name}", True)


def test_files_of_an_erasure_that_is_not_complete_are_no_difference(runs, backup):
    lake = runs[0].lake
    (lake / PLAN).write_text("{}")
    for name in list_erased(lake, backup):
        shutil.copy(backup / name, lake / name)
    result = verify(lake, "all")
    assert result.differences == []
    assert sum("left over from an erasure that is not complete: repeat it" in note for note in result.notes) > 1


def test_a_report_that_was_recorded_after_an_erasure_must_exist(runs, backup):
    report = runs[0].folder / "report.html"
    report.write_bytes(b"<html>again</html>")
    record_report(runs[0], "report.html")
    assert list_faults(runs[0].lake) == {}
    report.unlink()
    ((file, what),) = list_faults(runs[0].lake).items()
    assert file == f"runs/{runs[0].run_id}/report.html"
    assert f"to write it again: m2ib-audit report {runs[0].run_id}" in what
