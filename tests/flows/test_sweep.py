"""The sweep over settings of the bottleneck, on a model and corpus of the user."""

import json
import tomllib

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.config import parse
from m2ib.analysis.sweep import recommend


def test_each_combination_has_its_row(phantoms, tmp_path):
    audit = tmp_path / "AUDIT.toml"
    audit.write_text(f'[corpus]\npath = "{phantoms}"\n[model]\narchitecture = "demo/clean"\n[bottleneck]\nsteps = 2\n')
    options = ["--depth", "0.2", "--depth", "0.8", "--beta", "1", "--pairs", "4", "--json"]
    result = CliRunner().invoke(cli.app, ["sweep", str(audit), *options])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    settings = [[row[f"{tower}_{key}"] for tower in ("image", "text") for key in ("depth", "beta")] for row in rows]
    assert settings == [[0.4, 1, 0, 0.1], [0.2, 1, 0.2, 1], [0.8, 1, 0.8, 1]]  # the first: those of the AUDIT.toml
    assert all(row["image_nats"] > 0 and -1 <= row["image_stability"] <= 1 for row in rows)


def test_the_lines_that_a_sweep_prints_can_be_put_into_the_audit_file(phantoms, tmp_path):
    audit = tmp_path / "AUDIT.toml"
    text = f'[corpus]\npath = "{phantoms}"\n[model]\narchitecture = "demo/clean"\n'
    audit.write_text(text + "[bottleneck]\nsteps = 4\n[bottleneck.image]\nlayer = 1\nbeta = 0.5\n")
    result = CliRunner().invoke(cli.app, ["sweep", str(audit), "--depth", "0", "--beta", "0.1", "--pairs", "6"])
    assert result.exit_code == 0, result.stderr
    tables, _, lines = result.stdout.partition("To use it, put these lines")
    assert tables.count("present: keep") == 2
    section = tomllib.loads(lines.partition("\n")[2])["bottleneck"]
    assert section == {"draws": 2, "image": {"depth": 0.4, "beta": 0.5}, "text": {"depth": 0, "beta": 0.1}}
    parse(tomllib.loads(text) | {"bottleneck": section}, "printed")


def make_row(draws=2, cosine=0.3, **image):
    values = {"depth": 0.4, "beta": 1.0, "stability": 0.99, "retained": 1.0}
    text = {f"text_{key}": value for key, value in values.items()}
    return {"draws": draws, "cosine": cosine} | text | {f"image_{key}": v for key, v in (values | image).items()}


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([make_row(beta=0.1), make_row(depth=0.2)], 0),
        ([make_row(beta=2.0, depth=0.8), make_row(beta=2.0, depth=0.5), make_row(beta=2.0, retained=0.8)], 2),
        ([make_row(beta=2.0, stability=float("nan")), make_row(beta=2.0, draws=4)], 0),
    ],
    ids=["present", "largest beta", "fewest draws"],
)
def test_a_stable_row_that_retains_the_cosine_is_recommended(others, chosen):
    rows = [make_row(), *others]
    assert recommend(rows)["image"] is rows[chosen]


def test_more_draws_are_recommended_where_few_are_not_stable():
    rows = [make_row(stability=0.9), make_row(draws=8)]
    assert recommend(rows) == {"image": rows[1], "text": rows[1]}


@pytest.mark.parametrize(
    ("values", "sentence", "next_step"),
    [
        (
            {"cosine": -0.01, "retained": -3.0},
            "so retained means nothing and can be negative",
            "Check [model] pretrained",
        ),
        ({"retained": -0.2}, "turns the embedding away from that of the other tower", "Lower beta"),
    ],
)
def test_a_negative_share_of_the_cosine_is_explained(phantoms, tmp_path, monkeypatch, values, sentence, next_step):
    row = make_row(**values, nats=1.0) | {"text_nats": 1.0, "seconds_per_pair": 1.0}
    monkeypatch.setattr("m2ib.analysis.sweep.run_sweep", lambda *_: iter([row]))
    audit = tmp_path / "AUDIT.toml"
    audit.write_text(f'[corpus]\npath = "{phantoms}"\n[model]\narchitecture = "demo/clean"\n')
    result = CliRunner().invoke(cli.app, ["sweep", str(audit)])
    assert result.exit_code == 0, result.stderr
    assert sentence in result.stdout
    assert next_step in result.stdout
    assert "no recommendation for the image" in result.stdout
    assert ("[bottleneck.text]" in result.stdout) == ("cosine" not in values)


def test_a_corpus_without_pairs_is_bad_input(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,text\ngone.png,nothing\n")
    audit = tmp_path / "AUDIT.toml"
    audit.write_text(f'[corpus]\npath = "{tmp_path}"\n[model]\narchitecture = "demo/clean"\n')
    result = CliRunner().invoke(cli.app, ["sweep", str(audit)])
    assert result.exit_code == 2
    assert "got 0 readable pair(s)" in result.stderr
