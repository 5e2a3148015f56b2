"""The sweep over settings of the bottleneck, on a model and corpus of the user."""

import json

from typer.testing import CliRunner

from flows import cli


def test_each_combination_has_its_row(phantoms, tmp_path):
    audit = tmp_path / "AUDIT.toml"
    audit.write_text(f'[corpus]\npath = "{phantoms}"\n[model]\narchitecture = "demo/clean"\n[bottleneck]\nsteps = 2\n')
    options = ["--depth", "0.2", "--depth", "0.8", "--beta", "1", "--pairs", "4", "--json"]
    result = CliRunner().invoke(cli.app, ["sweep", str(audit), *options])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert [(row["depth"], row["beta"], row["draws"]) for row in rows] == [(0.2, 1, 2), (0.8, 1, 2)]
    assert all(row["image_nats"] > 0 and -1 <= row["image_stability"] <= 1 for row in rows)


def test_a_corpus_without_pairs_is_bad_input(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\ngone.png,nothing\n")
    audit = tmp_path / "AUDIT.toml"
    audit.write_text(f'[corpus]\npath = "{tmp_path}"\n[model]\narchitecture = "demo/clean"\n')
    result = CliRunner().invoke(cli.app, ["sweep", str(audit)])
    assert result.exit_code == 2
    assert "got 0 readable pair(s)" in result.stderr
