"""The backup that docs/hospital.md describes: a copy of a lake in use verifies, and can be restored."""

import re
import shutil
import subprocess
import threading
from itertools import count
from pathlib import Path

import pytest

from review.evidence.decisions import Reviewer, decide
from review.evidence.verify import verify
from stores import ledger
from tasks.lake.journal import record_run_end

PAGE = Path(__file__).parent.parent / "docs" / "hospital.md"
ANN = Reviewer("Ann", "radiologist", "declared")


def backup(folder):
    """Run the commands of the page in the folder that contains the lake."""
    (commands,) = re.findall(r"```sh\n(mkdir -p backup.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run(["/bin/sh", "-euc", commands], cwd=folder, check=True, timeout=60)


@pytest.fixture
def lake_in_use(tmp_path, run_class, make_add_next_run):
    """A lake to which a thread adds runs and decisions until the test ends."""
    root = tmp_path / "lake"
    root.mkdir()
    reviewed = make_add_next_run(root)({}, chained=True)
    record_run_end(reviewed)
    ended = threading.Event()

    def use():
        for number in count():
            run = run_class(root, f"20260201T{number:06d}-aaaaaa").begin(chained=True)
            run.add_pairs(["a shadow"] * 4)
            run.finish("completed")
            record_run_end(run)
            decide(root, ANN, reviewed.run_id, f"{reviewed.run_id}-0", "benign", f"look {number}", "review")
            if ended.is_set():
                break

    thread = threading.Thread(target=use)
    thread.start()
    yield root
    ended.set()
    thread.join()


def test_a_copy_of_a_lake_in_use_verifies_and_can_be_restored(lake_in_use, tmp_path):
    noted = verify(lake_in_use, None).head
    for _ in range(3):
        shutil.rmtree(tmp_path / "backup", ignore_errors=True)
        backup(tmp_path)
        result = verify(tmp_path / "backup", "all", head=noted)
        assert (result.differences, result.records > 0) == ([], True)
    restored = shutil.copytree(tmp_path / "backup", tmp_path / "restored")
    runs = verify(restored, "all", head=noted).runs
    record = decide(restored, ANN, runs[0], f"{runs[0]}-0", "benign", "after the restore", "review")
    assert record.number == len(ledger.read_records(tmp_path / "backup")) + 1
    assert verify(restored, "all", head=noted).differences == []
