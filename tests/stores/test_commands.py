"""Command lines in messages."""

from pathlib import Path

from stores import format_command, lake_root


def test_a_command_names_the_lake_unless_it_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for lake in (Path("lake"), tmp_path / "lake"):
        assert format_command(lake, "verify", "all") == "m2ib-audit verify all"
    assert format_command(tmp_path / "my lake", "verify", "all") == f"m2ib-audit verify all --lake '{tmp_path}/my lake'"
    assert format_command(lake_root("s3://bucket/a"), "sql", "FROM runs") == (
        "m2ib-audit sql 'FROM runs' --lake s3://bucket/a"
    )
