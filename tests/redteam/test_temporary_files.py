"""Queries of readers read no temporary files: of this process, of other connections, or of the working directory."""

from pathlib import Path

import pytest

import sql
import stores
from sql import sandbox

SPILL = "SELECT current_setting('temp_directory') AS folder"


def test_query_of_a_reader_reads_no_temporary_file(lake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    with sql.connect(lake) as other:
        folders = [tmp_path / ".tmp", stores.scratch_folder(), Path(sql.read(other, SPILL)[0]["folder"])]
        folders[2].mkdir()
        for folder in folders:
            (folder / "duckdb_temp_x.csv").write_text("a\n1\n")
            for name in ("duckdb_temp_x.csv", "*"):
                for read in ("read_csv", "read_text", "glob"):
                    with pytest.raises(sql.QueryError, match="Permission Error"):
                        query(lake, f"SELECT * FROM {read}('{folder / name}')")
    for name in (".tmp/duckdb_temp_x.csv", ".tmp/*"):
        with pytest.raises(sql.QueryError, match="Permission Error"):
            query(lake, f"SELECT * FROM read_text('{name}')")


def test_each_query_has_a_temporary_folder_of_its_own(lake):
    folders = {query(lake, SPILL)[0]["folder"] for _ in range(2)}
    assert len(folders) == 2
    assert all(Path(folder).parent.stat().st_mode & 0o077 == 0 for folder in folders)


def query(lake, text):
    return sandbox.read_table(lake, True, text, sandbox.Limits(rows=10, seconds=10.0)).to_pylist()
