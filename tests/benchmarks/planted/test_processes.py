"""Each name has a separate process; failures are reported after all have finished."""

import pytest

from benchmarks.planted import processes

MODULE = """
import os, pathlib, sys
_, _, name, folder = sys.argv
values = [os.environ.get(key, "") for key in ("PREFECT_HOME", "PREFECT_API_URL", "OMP_NUM_THREADS", "EXTRA")]
(pathlib.Path(folder) / name).write_text("|".join(values))
sys.exit(name == "bad")
"""


def test_each_name_gets_a_process_and_failures_are_reported_at_the_end(tmp_path, monkeypatch):
    (tmp_path / "one_module.py").write_text(MODULE)
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://other")
    with pytest.raises(RuntimeError, match="one_module failed for bad: see the output above; run it again"):
        processes.run_each("one_module", ["bad", "good"], [str(tmp_path)], {"EXTRA": "value"}, jobs=1)
    homes = []
    for name in ("bad", "good"):
        home, *rest = (tmp_path / name).read_text().split("|")
        assert rest == ["", "1", "value"]
        homes.append(home)
    assert len(set(homes)) == 2
