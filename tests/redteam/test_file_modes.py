"""What holds captions is as private as what holds statistics, and one setting, the umask, shares all of it."""

import os
import stat

import pytest

from stores import ledger


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_all_files_of_a_lake_have_the_same_mode_and_a_new_lake_is_private(
    begin_pipeline, settings, phantoms, tmp_path, umask, mode
):
    before = os.umask(umask)
    try:
        lake = tmp_path / "new" / "lake"
        pipeline = begin_pipeline(settings(phantoms, lake, bottleneck={"steps": 1}))
        pipeline.to_lake()
        ledger.append(lake, "sign_off", {"statement": "fit for use"})
    finally:
        os.umask(before)
    assert stat.S_IMODE(lake.stat().st_mode) == 0o700
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in lake.rglob("*") if path.is_file()}
    assert {path.name for path in modes} >= {"calibration.safetensors", "manifest.json", "HEAD", "part-00000.parquet"}
    assert set(modes.values()) == {mode}, modes
