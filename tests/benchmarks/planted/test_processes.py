"""Each name has a process of its own; one that fails is named, after all others are done."""

import pytest

from benchmarks.planted import processes

MODULE = """
import os, pathlib, sys
_, _, name, folder = sys.argv
told = [os.environ.get(key, "") for key in ("PREFECT_HOME", "PREFECT_API_URL", "OMP_NUM_THREADS", "TOLD")]
(pathlib.Path(folder) / name).write_text("|".join(told))
sys.exit(name == "bad")
"""


def test_each_name_has_a_process_apart_and_failures_are_told_at_the_end(tmp_path, monkeypatch):
    (tmp_path / "one_module.py").write_text(MODULE)
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "elsewhere")
    with pytest.raises(RuntimeError, match="one_module failed for bad: see the lines above; call again"):
        processes.run_each("one_module", ["bad", "good"], [str(tmp_path)], {"TOLD": "so"}, jobs=1)
    homes = []
    for name in ("bad", "good"):
        home, *rest = (tmp_path / name).read_text().split("|")
        assert rest == ["", "1", "so"]
        homes.append(home)
    assert len(set(homes)) == 2
