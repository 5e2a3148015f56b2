"""The documentation is tested: queries run, each AUDIT.toml is valid, links have targets."""

import csv
import itertools
import json
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import sql
from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from corpora import FORMATS
from flows import cli
from flows.config import parse
from review.report.blocks import TITLES
from stores import ledger
from tasks.custom_rules import check_rules
from tasks.flag import flag
from tasks.regions import Detector, run_detector
from tasks.settings import AlertsConfig

ROOT = Path(__file__).parent.parent
PHANTOMS = 12
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def list_blocks(language):
    for page in PAGES:
        for number, text in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        ):
            yield pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}")


def list_queries():
    for block in list_blocks("sql"):
        for number, query in enumerate(filter(str.strip, block.values[0].split(";"))):
            if "$run_id" not in query:  # otherwise it is a rule
                yield pytest.param(query, id=f"{block.id}:{number}")
    for block in list_blocks("sh"):
        for number, query in enumerate(re.findall(r'm2ib-audit sql "(.*?)"', block.values[0], re.DOTALL)):
            yield pytest.param(query, id=f"{block.id}:{number}")


@pytest.mark.parametrize("query", list(list_queries()))
def test_documented_query_runs(query, tmp_path):
    with sql.connect(tmp_path) as connection:
        assert sql.read(connection, query) == []


@pytest.mark.parametrize("text", [block for block in list_blocks("sql") if "$run_id" in block.values[0]])
def test_documented_rule_is_valid(text):
    check_rules({"documented": text})


def test_rule_of_the_guide_has_the_documented_findings(hand_written_run):
    (text,) = [block.values[0] for block in list_blocks("sql") if "site_gap" in block.values[0]]
    hand_written_run.add_pairs(["x"] * 8, [{"site": "a"}] * 3 + [{"site": "b"}] * 5)
    hand_written_run.add_attributions([[4, 2, 2, 2]] * 3 + [[1, 3, 3, 3]] * 5, (2, 2))
    hand_written_run.add_regions(("corner", (0, 0, 0.5, 0.5)), ("right", (0.5, 0, 1, 1)))
    flag.fn(hand_written_run, AlertsConfig(min_pairs=3), {"site_gap": text})
    with hand_written_run.connect() as connection:
        findings = sql.read(
            connection, "SELECT rule, region, slice, n, share, effect FROM findings WHERE rule = 'site_gap'"
        )
    # Site a has 0.4 of the mass in a quarter, other sites 0.1: below twice the area. The right half does not differ.
    assert findings == [
        {
            "rule": "site_gap",
            "region": "corner",
            "slice": "site=a",
            "n": 3,
            "share": pytest.approx(0.4),
            "effect": pytest.approx(1.6),
        }
    ]


def test_the_detector_of_the_guide_finds_bars():
    (text,) = [block.values[0] for block in list_blocks("python") if "def detect" in block.values[0]]
    names = {}
    exec(text, names)  # noqa: S102  # the code of docs/rules.md
    picture = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)
    detector = Detector("letterbox", names["detect"])
    assert run_detector(detector, picture, "") == {}
    picture[:2] = picture[-5:] = 7
    assert run_detector(detector, picture, "") == {"letterbox: bars": [(0, 0, 1, 0.1), (0, 0.75, 1, 1)]}


def test_the_audit_of_the_guide_names_the_detector_of_the_guide():
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    (package,) = [tomllib.loads(text) for text in re.findall(r"```ini\n(.*?)```", page, re.DOTALL)]
    named = [tomllib.loads(text)["regions"]["detectors"] for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
             if "detectors" in text]  # fmt: skip
    assert named == [[*package["project"]["entry-points"]["m2ib_audit.detectors"]]]


def test_the_python_lines_of_the_readme_run(phantoms, tmp_path, monkeypatch, capsys):
    (text,) = [block.values[0] for block in list_blocks("python") if block.id.startswith("README.md")]
    (tmp_path / "demo-data").mkdir()
    (tmp_path / "demo-data" / "corpus").symlink_to(phantoms)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(text, names)  # noqa: S102  # the code of the README
    assert "40 40\nAttribution(40 pairs, image maps 8 x 8; means: cosine " in capsys.readouterr().out
    assert [np.asarray(Image.open(name)).shape[0] for name in ("map.png", "maps.png")] == [448, 1200]
    assert len(names["table"]) == 40


def test_the_page_about_the_ledger_lists_all_kinds_of_records():
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    table = page.partition("| kind |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == ledger.KINDS


def list_corpus_commands():
    page = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    return [line for text in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in text.splitlines()]


def publish(pairs, folder):
    """Write a dataset as on the Hub: tables, and a dataset card with their paths."""
    WRITERS["parquet"](pairs, folder / "parts")
    card = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: parts/*.parquet\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """A folder with the corpora of docs/corpora.md: `my-` and the name of the format."""
    folder = tmp_path_factory.mktemp("documented")
    pairs = generate_source_pairs(6, 48)
    for name, write in WRITERS.items():
        write(pairs, folder / f"my-{name}")
    publish(pairs, folder / "my-datasets" / "as-published")
    return folder


@pytest.mark.parametrize("line", list_corpus_commands())
def test_a_documented_corpus_is_described(line, corpora, monkeypatch):
    monkeypatch.chdir(corpora)
    program, *arguments = shlex.split(line)
    assert program == "m2ib-audit"
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout.splitlines()[-1])
    assert (answer["format"], answer["pairs"], answer["errors"]) == (re.search("my-([a-z-]+)", line)[1], 6, {})


@pytest.fixture(scope="module")
def phantom_corpora(phantoms, tmp_path_factory):
    """A folder with the corpora of docs/corpora.md, of phantoms; one image is truncated."""
    folder = tmp_path_factory.mktemp("audited")
    with (phantoms / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), PHANTOMS + 1))
    pairs = [SourcePair(row["file_name"], (phantoms / row["file_name"]).read_bytes(), row["text"]) for row in rows]
    pairs[3] = replace(pairs[3], data=pairs[3].data[:-200])
    for name, write in WRITERS.items():
        write(pairs, folder / f"my-{name}")
    publish(pairs, folder / "my-datasets" / "as-published")
    return folder


@pytest.fixture(scope="module")
def maps_of_all():
    """Maps by pair id of the first documented corpus that was audited; all corpora have the same pairs."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("line", list_corpus_commands())
def test_a_documented_corpus_is_audited(line, phantom_corpora, prefect_harness, maps_of_all, tmp_path, monkeypatch):
    monkeypatch.chdir(phantom_corpora)
    (path,) = [word for word in shlex.split(line) if word.startswith("my-")]
    (example,) = [block.values[0] for block in list_blocks("toml") if "my-webdataset" in block.values[0]]
    assert 'path = "my-webdataset"\n' in example  # the only key to change, according to the page
    format_line = 'format = "datasets"\n' if "--format datasets" in line else ""
    example = example.replace('path = "my-webdataset"\n', f"path = {json.dumps(path)}\n{format_line}")
    quick = "[bottleneck]\nsteps = 1\n[discover]\nenabled = false\n[confirm]\nenabled = false\n"
    audit_file = phantom_corpora / "AUDIT.toml"
    audit_file.write_text(example + quick)
    command = ["run", "AUDIT.toml", "--lake", str(tmp_path / "lake"), "--json"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code in (0, 3), result.output
    answer = json.loads(result.stdout.splitlines()[-1])
    assert (answer["status"], answer["pairs"], answer["attributions"], answer["errors"]) == (
        "completed",
        PHANTOMS,
        PHANTOMS,
        1,
    )
    with sql.connect(tmp_path / "lake") as connection:
        (run,) = sql.read(connection, "SELECT corpus_rows, pairs, errors FROM runs")
        assert run["pairs"] + run["errors"] == run["corpus_rows"] == PHANTOMS + 1
        (error,) = sql.read(connection, "SELECT reason FROM ingest_errors")
        assert error == {"reason": "truncated_image"}
        rows = sql.read(connection, "SELECT pair_id, image_map, text_map FROM attributions ORDER BY pair_id")
    (manifest,) = sql.read_manifests(tmp_path / "lake")
    assert manifest["corpus_format"] == re.search("my-([a-z-]+)", line)[1]
    maps = {row["pair_id"]: (row["image_map"], row["text_map"]) for row in rows}
    assert len(maps) == PHANTOMS
    assert maps == maps_of_all.setdefault("first", maps)
    assert Path(answer["report"]).read_text(encoding="utf-8").count(path) >= 1


def test_every_format_has_an_example():
    shown = {match for line in list_corpus_commands() for match in re.findall("my-([a-z-]+)", line)}
    assert shown == set(FORMATS)


@pytest.mark.parametrize("text", list(list_blocks("toml")))
def test_a_documented_audit_is_accepted(text):
    parse(tomllib.loads(text), "documentation")


def test_documented_values_are_the_defaults():
    """Each value in docs/audit-toml.md is the default of its key, unless the key has no default or an empty one."""
    documented = tomllib.loads(re.search("```toml\n(.*?)```", (ROOT / "docs/audit-toml.md").read_text(), re.DOTALL)[1])
    required = ("corpus", "path"), ("model", "architecture")
    minimal = {"corpus": {"path": "images"}, "model": {"architecture": "demo/shortcut"}}
    defaults = parse(minimal, "test").model_dump(mode="json")

    def compare(section, expected, names=()):
        for key, value in section.items():
            default = expected.get(key)
            if isinstance(value, dict):
                yield from compare(value, default or {}, (*names, key))
            elif default not in (None, []) and (*names, key) not in required:
                yield (*names, key), value, default

    found = list(compare(documented, defaults))
    assert [(key, value) for key, value, default in found if value != default] == []
    assert ("corpus", "max_file_bytes") in [key for key, *_ in found]


def test_the_guide_of_the_report_has_its_chapters():
    text = (ROOT / "docs/evidence-pack.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!chapter|--)([^|]+) \|", text, re.MULTILINE)
    own = list(TITLES.values())
    assert rows == ["Head", *own[:2], "Alert 1, 2, …", *own[2:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_tests_that_the_threat_model_names_exist():
    text = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:site/)?test_\w+\.py)`", text))
    assert len(names) > 10
    assert [name for name in sorted(names) if not [*ROOT.glob(f"tests/**/{name}")]] == []
