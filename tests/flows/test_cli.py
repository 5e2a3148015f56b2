"""The command line on an existing lake: output, streams and exit codes."""

import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import types

import pytest
import typer
from pypdf import PdfReader
from typer.testing import CliRunner

import sql
from flows import cli
from flows.commands import audits
from flows.commands.output import Exit, stdout
from review.report.contact_sheet import default_output
from stores import ledger
from stores.keys import create_key, load_key
from tasks.lake.journal import record_run_begin, record_run_end
from tasks.settings import AlertsConfig
from tasks.store import corner_boxes


@pytest.fixture
def call(lake):
    """call("sql", "SELECT 1"): run the command on the lake and return its result."""

    def invoke(*arguments, where=lake):
        return CliRunner().invoke(cli.app, [*map(str, arguments), "--lake", str(where)])

    return invoke


@pytest.fixture(scope="module")
def shared_alerted_run(tmp_path_factory, run_class):
    """A complete run with one independent alert and one that it explains. Not to be changed."""
    from tasks.alert import alert
    from tasks.flag import flag

    run = run_class(tmp_path_factory.mktemp("alerted"), "20260101T000000-aaaaaa").begin()
    run.add_pairs(["left consolidation"] * 4 + ["left nodule"] * 4 + ["normal chest"] * 14)
    run.add_attributions([[9.0] + [1.0] * 15] * 4 + [[1.0] * 16] * 18, (4, 4))
    run.add_regions(*corner_boxes(0.25).items())
    rules = AlertsConfig(factor=2.0, min_pairs=3, examples=2)
    flag.fn(run, rules, {})
    alert.fn(run, rules)
    run.finish("completed")
    return run


@pytest.fixture
def alerted_run(shared_alerted_run, lake):
    """A copy of `shared_alerted_run` that a test may change."""
    shutil.copytree(shared_alerted_run.lake, lake, dirs_exist_ok=True)
    return type(shared_alerted_run)(lake, shared_alerted_run.run_id)


def last_line(result):
    return json.loads(result.stdout.splitlines()[-1])


def test_query_result_is_printed_as_table(call, alerted_run):
    result = call("sql", "SELECT caption, count(*) AS n FROM pairs GROUP BY caption ORDER BY n DESC")
    assert result.exit_code == 0
    assert "normal chest" in result.stdout
    assert "14" in result.stdout
    assert result.stderr == ""


def test_a_query_as_json_is_one_object_on_the_last_line(call, alerted_run):
    result = call("sql", "SELECT pair_id, attributes, image_map FROM pairs JOIN attributions USING (pair_id)", "--json")
    assert result.exit_code == 0
    assert len(last_line(result)["rows"]) == 22
    assert result.stdout.count("\n") == 1


def test_json_contains_any_type_of_the_lake(call, alerted_run):
    text = (
        "SELECT now() AS t, DATE '2026-01-01' AS d, 1.5::DECIMAL(4, 2) AS x, 'ü\n' AS s, NULL AS nothing, [1, 2] AS l"
    )
    (row,) = last_line(call("sql", text, "--json"))["rows"]
    assert (row["d"], row["s"], row["nothing"], row["l"]) == ("2026-01-01", "ü\n", None, [1, 2])


def test_brackets_in_data_are_not_markup(call, alerted_run):
    for text in ("SELECT '[/red]' AS \"[/bold]\"", "SELECT '\\[/x] [bold]' AS a", "SELECT '[[' AS a"):
        result = call("sql", text)
        assert (result.exit_code, result.exception) == (0, None)
        for piece in ("[/red]", "[/bold]", "\\[/x] [bold]", "[["):
            assert (piece in text) == (piece in result.stdout)


def test_an_empty_result_is_stated(call, alerted_run):
    result = call("sql", "FROM findings WHERE false")
    assert (result.exit_code, result.stdout) == (0, "(no rows)\n")
    assert last_line(call("sql", "FROM findings WHERE false", "--json")) == {"rows": []}


def test_a_query_that_is_not_read_only_is_bad_input(call, alerted_run):
    for text in ("DROP VIEW pairs", "SELEC", "SELECT 1; SELECT 2", "COPY runs TO 'x.csv'", "FROM nowhere"):
        result = call("sql", text)
        assert result.exit_code == 2
        assert result.stderr.startswith("m2ib-audit: query: ")
        assert result.stdout == ""


def test_alerts_of_the_latest_run_are_listed(call, alerted_run):
    result = call("alerts")
    assert result.exit_code == 0
    heading, *lines = result.stdout.splitlines()
    assert heading == f"run {alerted_run.run_id}: 2 alerts, 1 of them independent (1 suspected)"
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert (
        "attribution concentrates on the top-left corner in pairs whose caption contains “consolidation”"
        in text.replace("\u2068", "")
    )
    assert "it explains 1 other alert" in text
    command = f"m2ib-audit alerts {alerted_run.run_id} --all --lake {shlex.quote(str(alerted_run.lake))}"
    assert result.stderr.endswith(f"to list 1 explained alert too: {command}\n")
    assert text.count("ALERT ") == 1
    everything = " ".join(call("alerts", "--all").stdout.split())
    assert everything.count("ALERT ") == 2
    assert "explained by consolidation" in everything


def test_alerts_name_overlays_as_people_do(call, alerted_run):
    with alerted_run.connect() as connection:
        rows = sql.read(connection, "SELECT * EXCLUDE (concentration, score_loss) FROM alerts")
    alerted_run.write_table("stamps", [{"region": "stamp 1", "occurrences": 2, "searched": 22}])
    alerted_run.write_table("alerts", [row | {"region": "stamp 1"} for row in rows])
    alerted_run.finish("completed")
    ada = {"name": "Ada", "role": "reader", "identity": "declared"}
    body = {"run_id": alerted_run.run_id, "region": "stamp 1", "name": "PORT tag", "reviewer": ada}
    ledger.append(alerted_run.lake, "name", body)
    for command in (("alerts",), ("alerts", "--since", "2020-01-01")):
        assert "recurring overlay 1 (“PORT tag”)" in " ".join(call(*command).stdout.split()), command


def test_alerts_as_json(call, alerted_run):
    (first, second) = last_line(call("alerts", "--json"))["alerts"]
    assert (first["slice"], first["explained_by"]) == ("consolidation", None)
    assert (second["slice"], second["explained_by"]) == ("left", "consolidation")
    assert first["pair_ids"] == ["pair-0000", "pair-0001"]


SIGNATURE = ("--name", "Ada", "--role", "radiologist", "--meaning", "review", "--statement", "Seen.")


@pytest.fixture
def later_run(alerted_run):
    """A run that began after `alerted_run`, in the same lake, and has not ended."""
    return type(alerted_run)(alerted_run.lake, "20260202T000000-bbbbbb").begin()


@pytest.mark.parametrize("command", [("alerts",), ("sign", "latest", *SIGNATURE), ("compact", "latest")])
def test_latest_is_the_newest_complete_run_where_one_is_needed(call, alerted_run, later_run, command):
    record_run_end(alerted_run)
    record_run_begin(later_run)
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert alerted_run.run_id in result.output
    assert result.stderr.startswith(
        f"note: the newest run, {later_run.run_id}, has not ended; latest is run {alerted_run.run_id}\n"
    )
    later_run.finish("completed")
    record_run_end(later_run)
    result = call(*command)
    assert (result.exit_code, result.stderr) == (0, "")
    assert alerted_run.run_id not in result.output


def test_latest_is_the_newest_run_where_any_run_will_do(call, alerted_run, later_run):
    for status in ("interrupted", "pruned"):
        later_run.finish(status)
        expected = later_run if status == "interrupted" else alerted_run
        assert last_line(call("report", "latest", "--json")) == {"report": str(expected.folder / "report.html")}
    later_run.finish("interrupted")
    assert last_line(call("verify", "latest", "--json"))["runs"] == [later_run.run_id]


def test_all_selects_the_alerts_of_all_runs(call, alerted_run, later_run):
    later_run.finish("completed")
    assert last_line(call("alerts", "--json")) == {"alerts": []}
    assert len(last_line(call("alerts", "all", "--json"))["alerts"]) == 2
    assert len(last_line(call("alerts", alerted_run.run_id, "--json"))["alerts"]) == 2
    assert last_line(call("alerts", later_run.run_id, "--json")) == {"alerts": []}


def test_latest_names_the_other_audits_whose_runs_their_names_choose(call, alerted_run):
    other = type(alerted_run)(alerted_run.lake, "20260202T000000-bbbbbb").begin(audit="prod", model="m2")
    for run in (alerted_run, other):
        run.finish("completed")
    latest = call("alerts", "--json")
    assert last_line(latest) == {"alerts": []}
    unnamed = sql.audit_id(alerted_run.read_manifest())
    assert f"2 audits; latest is run {other.run_id}; for the latest run of another one, name it: {unnamed}" in (
        " ".join(latest.stderr.split())
    )
    for audit, number in ((unnamed, 2), ("prod", 0)):
        chosen = call("alerts", audit, "--json")
        assert len(last_line(chosen)["alerts"]) == number
        assert "audits" not in chosen.stderr


def test_a_run_with_failed_shards_is_complete(call, alerted_run):
    alerted_run.finish("completed_with_errors", "1 of 9 shards failed")
    result = call("alerts", "--json")
    assert len(last_line(result)["alerts"]) == 2
    assert "did not complete" not in result.stderr


@pytest.mark.parametrize(
    ("status", "raised", "code"),
    [("completed_with_errors", 1, 4), ("stopped", 0, 1), ("failed", 0, 1), ("completed", 1, 3), ("completed", 0, None)],
)
def test_the_exit_code_states_how_a_run_ended(status, raised, code):
    result = types.SimpleNamespace(status=status, raised=raised)
    if code is None:
        audits.exit_unless_complete(result, Exit.ALERTS)
        return
    with pytest.raises(typer.Exit) as ended:
        audits.exit_unless_complete(result, Exit.ALERTS)
    assert ended.value.exit_code == code


def test_alerts_of_an_unknown_run_are_bad_input(call, alerted_run):
    """A mistyped id must not look like a run without alerts."""
    result = call("alerts", "20260101")
    assert result.exit_code == 2
    assert alerted_run.run_id in result.stderr


@pytest.mark.parametrize("name", ["the reader's lake", "nowhere"])
@pytest.mark.parametrize(
    "command", [("alerts",), ("report", "latest"), ("sign", "latest", *SIGNATURE), ("compact", "latest")]
)
def test_latest_of_a_lake_without_runs_is_bad_input(call, lake, name, command):
    where = lake.parent / name
    result = call(*command, where=where)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"got latest, but the lake {where} has no run; run an audit first" in result.stderr


@pytest.mark.parametrize("run_id", ["latest", "all", "20260101T000000-aaaaaa"])
def test_an_empty_or_missing_lake_cannot_be_verified(call, lake, run_id):
    for where in (lake, lake.parent / "nowhere"):
        result = call("verify", run_id, where=where)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"verify: {where} has no file of a lake; run an audit first" in result.stderr
    (lake / "notes.txt").touch()
    result = call("verify", "latest")
    assert result.exit_code == 2
    assert "verify: got 'latest', but the lake" in result.stderr


def test_latest_without_a_complete_run_is_bad_input(call, hand_written_run):
    hand_written_run.finish("failed")
    for command in (("alerts",), ("sign", "latest", *SIGNATURE), ("compact", "latest")):
        result = call(*command)
        assert result.exit_code == 2
        assert "has no complete run; run an audit first" in result.stderr
    assert call("report", "latest").exit_code == 0


@pytest.fixture(scope="module")
def shared_lake_of_two_runs(tmp_path_factory, run_class):
    from tasks.notify import store_alert_history

    lake = tmp_path_factory.mktemp("two runs")
    alerts_of_runs = [[{"effect": 3.0}, {"slice": "a"}], [{"effect": 4.0, "interval": (0.1, 0.2, 0.3)}]]
    for number, alerts in enumerate(alerts_of_runs, 1):
        run = run_class(lake, f"2026010{number}T000000-aaaaaa").begin(rules={"region_mass": "x"})
        run.add_pairs(["a consolidation"] * 4)
        run.add_attributions([[1.0] * 4] * 4, (2, 2))
        run.add_alerts(*alerts)
        store_alert_history(run, 3)
        run.update(started_at=f"2026-01-0{number}T03:00:00+00:00")
        run.finish("completed")
    return lake


@pytest.fixture
def lake_of_two_runs(shared_lake_of_two_runs, lake):
    """A lake with an alert that two runs raised, the second one more strongly, and one of the first run only."""
    shutil.copytree(shared_lake_of_two_runs, lake, dirs_exist_ok=True)


def test_the_history_of_alerts_is_listed(call, lake_of_two_runs):
    rows = last_line(call("alerts", "--since", "2026-01-01", "--json"))["lives"]
    assert [(row["slice"], row["life"]) for row in rows] == [("consolidation", "still_firing"), ("a", "resolved")]
    assert [(entry["life"], entry["effect"]) for entry in rows[0]["history"]] == [("new", 3.0), ("still_firing", 4.0)]
    table = call("alerts", "--since", "2026-01-01").stdout
    assert "concentration 3 → 4" in table
    assert "RESOLVED" in table
    assert "its region no longer exists" in table


def test_since_accepts_a_time_or_a_run_id(call, lake_of_two_runs):
    expected = {
        "2026-01-01": 2, "2026-01-01T04:00": 1, "2026-01-01T06:00+02:00": 1, "20260101T000000-aaaaaa": 2,
        "20260102T000000-aaaaaa": 1, "20260103": 0,
    }  # fmt: skip
    for since, runs in expected.items():
        rows = last_line(call("alerts", "--since", since, "--json"))["lives"]
        history = [len(row["history"]) for row in rows if row["slice"] == "consolidation"]
        assert history == [runs] * bool(runs), since


def test_since_accepts_a_duration(call, lake_of_two_runs, run_class, lake):
    assert last_line(call("alerts", "--since", "24h", "--json")) == {"lives": []}
    run = run_class(lake, "20260301T000000-aaaaaa").begin()  # begins now
    run.add_alerts({})
    run.finish("completed")
    (row,) = last_line(call("alerts", "--since", "1d", "--json"))["lives"]
    assert (row["life"], len(row["history"])) == (None, 1)  # raised by a version that stored no alert history


def test_an_invalid_since_is_bad_input(call, lake_of_two_runs):
    for since in ("yesterday", "7", "7y", "2026-13-01"):
        result = call("alerts", "--since", since)
        assert result.exit_code == 2
        assert f"got {since!r}" in result.stderr
        assert "20260102T000000-aaaaaa" in result.stderr


def test_a_missing_lake_is_bad_input(call, tmp_path):
    for command in (("sql", "SELECT 1"), ("alerts", "all"), ("report", "none")):
        result = call(*command, where=tmp_path / "nowhere")
        assert result.exit_code == 2
        assert str(tmp_path / "nowhere") in result.stderr
        assert "run an audit first" in result.stderr


@pytest.mark.parametrize("command", [("alerts",), ("report", "latest"), ("verify", "latest")])
def test_a_lake_whose_only_run_is_damaged_is_bad_input(call, alerted_run, command, caplog):
    (alerted_run.folder / "manifest.json").write_text("{")
    result = call(*command)
    assert result.exit_code in (1, 2)
    assert "manifest" in result.output + caplog.text


def test_a_report_is_written_and_its_path_printed(call, phantom_audit, tmp_path):
    out = tmp_path / "out" / "report.html"
    result = call("report", phantom_audit.run.run_id, "--out", out, where=phantom_audit.run.lake)
    assert (result.exit_code, result.stdout.strip()) == (0, str(out))
    assert phantom_audit.run.run_id in out.read_text()
    result = call("report", "latest", "--json", where=phantom_audit.run.lake)
    assert last_line(result) == {"report": str(phantom_audit.run.folder / "report.html")}


def test_run_is_signed_off_and_its_pdf_written(call, alerted_run, tmp_path):
    signature = {
        "--name": "Ada Okafor",
        "--role": "radiologist",
        "--meaning": "approval",
        "--statement": "Not for use.",
    }
    options = [text for option in signature.items() for text in option]
    create_key(tmp_path / "key")
    result = call("sign", "latest", *options, "--key", tmp_path / "key", "--json")
    assert result.exit_code == 0, result.stderr
    assert last_line(result)["run_id"] == alerted_run.run_id
    (record,) = ledger.read_records(alerted_run.lake)
    assert (record.kind, record.body["reviewer"]["identity"]) == ("sign_off", "declared")
    assert record.key_id == load_key(tmp_path / "key").key_id
    result = call("report", alerted_run.run_id, "--pdf")
    assert result.stdout.strip() == str(alerted_run.folder / "report.pdf")
    text = "".join(page.extract_text() for page in PdfReader(alerted_run.folder / "report.pdf").pages)
    assert "Printed name Ada Okafor" in " ".join(text.split())
    assert [record.kind for record in ledger.read_records(alerted_run.lake)] == ["sign_off", "report"]


def test_a_changed_report_is_detected(call, alerted_run, tmp_path):
    copy = tmp_path / "kept.html"
    assert call("report", "latest", "--out", copy).exit_code == 0
    result = call("verify", "--report", copy, "--json")
    assert result.exit_code == 0, result.stderr
    assert f"unchanged since it was written for run {alerted_run.run_id}" in result.stdout
    assert last_line(result) == {
        "report": str(copy), "known": True, "run_id": alerted_run.run_id, "record": 1, "since": 0, "waivers_over": 0
    }  # fmt: skip
    assert call("sign", "latest", *SIGNATURE).exit_code == 0
    result = call("verify", "--report", copy)
    assert (result.exit_code, "which are not in the report: record 2" in result.stdout) == (0, True)
    copy.write_bytes(copy.read_bytes().replace(b"suspected", b"imagined!", 1))
    result = call("verify", "--report", copy, "--json")
    assert (result.exit_code, last_line(result)["known"]) == (1, False)
    assert "The file was changed" in result.stderr
    for arguments in ((), ("--head", "0" * 64)):
        assert call("verify", *arguments).exit_code == 2
    assert call("verify", "--report", tmp_path / "nowhere").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("sign", "latest", "--meaning", "fun"), "meaning: got 'fun', expected one of review, approval"),
        (("sign", "nonsense", "--meaning", "review"), "run: got 'nonsense', expected a complete run"),
        (("sign", "latest", "--meaning", "review", "--statement", " "), "statement: got nothing"),
        (("sign", "latest", "--meaning", "review", "--key", "nowhere"), "key: nowhere cannot be read"),
        (("report", "latest", "--fonts", "."), "--fonts: got ., expected folders with font files, together with --pdf"),
        (("report", "latest", "--pdf", "--fonts", "nowhere"), "--fonts: got nowhere, expected folders"),
    ],
)
def test_an_invalid_signature_or_report_is_bad_input(call, alerted_run, arguments, fault):
    defaults = {"--name": "Ada", "--role": "radiologist", "--statement": "Seen."} if arguments[0] == "sign" else {}
    rest = [text for option in defaults.items() if option[0] not in arguments for text in option]
    result = call(*arguments, *rest)
    assert result.exit_code == 2
    assert fault in result.stderr
    assert ledger.read_records(alerted_run.lake) == []


def test_a_report_of_an_unknown_run_is_bad_input(call, alerted_run):
    result = call("report", "nonsense")
    assert result.exit_code == 2
    assert alerted_run.run_id in result.stderr


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read"),
        ("[corpus", "not valid TOML"),
        ('[corpus]\npath = "x"\n[model]\narchitecure = "demo/clean"\n', "did you mean 'architecture'?"),
    ],
)
def test_an_invalid_configuration_is_bad_input(tmp_path, content, fault):
    path = tmp_path / "AUDIT.toml"
    if content is not None:
        path.write_text(content)
    result = CliRunner().invoke(cli.app, ["run", str(path)])
    assert result.exit_code == 2
    assert fault in result.stderr
    assert result.stdout == ""


def test_an_unknown_demo_model_is_bad_input(call):
    result = call("demo", "--model", "demo/shortcuts")
    assert result.exit_code == 2
    assert "expected one of demo/shortcut, demo/clean" in result.stderr


@pytest.mark.parametrize(
    ("model", "folder", "pairs"), [("demo/clean", "demo-data", 512), ("demo/varied", "demo-data-varied", 800)]
)
def test_the_demo_chooses_corpus_and_settings_by_model(tmp_path, monkeypatch, call, model, folder, pairs):
    monkeypatch.chdir(tmp_path)
    generated, audited = [], []
    monkeypatch.setattr("demo.corpus.generate", lambda *given, **kinds: generated.append((given, kinds)) or "corpus")
    result = types.SimpleNamespace(status="completed", raised=0)
    monkeypatch.setattr(audits, "run_audit", lambda config, *_: audited.append(config) or result)
    assert call("demo", "--model", model).exit_code == 0
    varied = model == "demo/varied"
    assert generated == [((pathlib.Path(folder), pairs), {"varied": varied})]
    assert [(each.model.architecture, each.concepts.enabled) for each in audited] == [(model, varied)]


def test_unknown_options_are_bad_input(call):
    assert call("alerts", "--runs", "x").exit_code == 2
    assert CliRunner().invoke(cli.app, ["no-such-command"]).exit_code == 2


def test_a_package_of_another_distribution_stops_the_run(monkeypatch, tmp_path):
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "corpora")
    result = CliRunner().invoke(cli.app, ["run", str(tmp_path / "AUDIT.toml")])
    assert result.exit_code == 1
    assert f"package 'corpora' comes from {tmp_path / 'corpora'}" in result.stderr


def test_prefect_settings_of_the_user_take_precedence(monkeypatch):
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED", raising=False)
    audits.prepare_prefect(verbose=False)
    assert audits.os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert audits.os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


@pytest.mark.parametrize(("text", "code"), [("SELECT 1 AS one", 0), ("DROP VIEW runs", 2)])
def test_process_exits_with_the_code_of_the_command(lake, text, code):
    """`main` exits without finalizing the interpreter; its output must not be lost."""
    process = subprocess.run(
        [sys.executable, "-m", "flows.cli", "sql", text, "--json", "--lake", str(lake)],
        cwd=cli.ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == code
    if code == 0:
        assert json.loads(process.stdout) == {"rows": [{"one": 1}]}
        assert process.stderr == ""
    else:
        assert process.stderr.startswith("m2ib-audit: query: got DROP")


def test_a_corpus_is_described_before_it_is_audited(phantoms, tmp_path):
    sheet = tmp_path / "page.html"
    result = CliRunner().invoke(cli.app, ["corpus", str(phantoms), "--out", str(sheet), "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout.splitlines()[-1])
    assert (answer["format"], answer["listed"], answer["pairs"], answer["errors"]) == ("folder", 40, 40, {})
    assert "40 pairs, 0 error rows" in result.stdout
    assert sheet.read_text(encoding="utf-8").count("data:image/") >= 40


def test_missing_corpus_or_unknown_format_is_bad_input(tmp_path):
    for arguments, message in (
        ([str(tmp_path / "none")], "does not exist"),
        ([str(tmp_path), "--format", "zip"], "corpus.format"),
    ):
        result = CliRunner().invoke(cli.app, ["corpus", *arguments, "--out", str(tmp_path / "page.html")])
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_table_wider_than_the_terminal_is_printed_as_blocks(call, alerted_run, monkeypatch):
    result = call("sql", "SELECT * FROM runs")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("- record 1 -")
    assert [line.split() for line in lines if line.startswith(("run_id ", "pairs "))] == [
        ["run_id", alerted_run.run_id], ["pairs", "22"],
    ]  # fmt: skip
    narrow = "SELECT pair_id, caption, repeat('long ', 30) AS note FROM pairs LIMIT 2"
    assert "record" not in call("sql", narrow).stdout
    monkeypatch.setattr(stdout, "width", 60)
    assert "record 2" in call("sql", narrow).stdout
    monkeypatch.setattr(stdout, "width", 80)  # a column of at least 40 characters may wrap
    table = call("sql", narrow).stdout
    assert "record" not in table
    assert max(map(len, table.splitlines())) <= 80
    assert last_line(call("sql", "SELECT * FROM runs", "--json"))["rows"][0]["run_id"] == alerted_run.run_id


def test_a_block_shows_markup_line_breaks_and_null(call, alerted_run, monkeypatch):
    monkeypatch.setattr(stdout, "width", 20)
    result = call("sql", "SELECT '[/red]' || chr(10) || 'two' AS a, NULL AS \"long name\", repeat('x', 30) AS c")
    assert result.stdout.splitlines()[1:] == [
        "a          [/red]",
        "           two",
        "long name  None",
        f"c          {'x' * 30}",
    ]


def test_contact_sheet_is_named_after_its_corpus_and_overwrites_no_other_file(phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    describe = [cli.app, ["corpus", str(phantoms)]]
    for _ in range(2):  # its own contact sheet is overwritten
        result = CliRunner().invoke(*describe)
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "contact sheet: corpus-corpus.html")
    sheet = tmp_path / "corpus-corpus.html"
    sheet.write_text("<html>notes of mine")
    (tmp_path / "folder").mkdir()
    for options in ([], ["--out", "corpus-corpus.html"], ["--out", "folder"]):
        result = CliRunner().invoke(cli.app, [*describe[1], *options])
        assert (result.exit_code, result.stdout) == (2, "")
        assert "choose another file with --out" in result.stderr
    assert sheet.read_text() == "<html>notes of mine"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("my-images", "my-images"), ("/data/my images/", "my_images"), ("s3://bucket/night", "night"),
        ("shards/train-{000..012}.tar", "shards"), ("a/*.tar", "a"), ("*.tar", "corpus"), ("cc.tsv", "cc.tsv"),
    ],
)  # fmt: skip
def test_default_name_of_contact_sheet(uri, name):
    assert str(default_output(uri)) == f"corpus-{name}.html"


def test_duplicates_are_counted_apart_from_errors(phantoms, tmp_path):
    rows = (phantoms / "metadata.csv").read_text().splitlines()[:4]
    (tmp_path / "metadata.csv").write_text("\n".join([*rows, rows[1], "gone.png,x,,", ""]))
    for row in rows[1:]:
        shutil.copy(phantoms / row.split(",")[0], tmp_path)
    result = CliRunner().invoke(cli.app, ["corpus", str(tmp_path), "--out", str(tmp_path / "page.html"), "--json"])
    assert result.exit_code == 0, result.output
    answer = last_line(result)
    assert (answer["listed"], answer["pairs"], answer["duplicates"], answer["errors"]) == (5, 3, 1, {"missing_file": 1})
    assert "5: 3 pairs, 2 error rows, 1 of them a duplicate" in result.stdout
    assert "1 x missing_file, such as gone.png: line 6: The file does not exist" in result.stdout
    assert "line 5 repeats the image and the caption of line 2" in result.stdout
    sheet = (tmp_path / "page.html").read_text()
    assert "1 row that repeats another pair" in sheet


def test_a_wrong_column_names_the_option(phantoms, tmp_path):
    command = ["corpus", str(phantoms), "--caption-column", "caption", "--out", str(tmp_path / "page.html")]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 2
    assert "no column 'caption'" in result.stderr
    assert "--caption-column, or caption_column in [corpus] of the AUDIT.toml" in result.stderr


@pytest.fixture
def lake_of_old_runs(lake, run_class):
    """A lake with two complete runs of years ago, each with two files of error rows."""
    for day in (1, 2):
        run = run_class(lake, f"2020010{day}T000000-aaaaaa").begin()
        run.add_pairs(["a", "b"])
        run.add_alerts()
        for part in ("ingest", "part-00000-x"):
            run.write_table("ingest_errors", [{"stage": part, "reason": "undecodable"}], part)
        run.finish("completed")
        run.update(finished_at=f"2020-01-0{day}T01:00:00+00:00")
        record_run_end(run)
    return lake


def test_prune_lists_runs_and_deletes_them_with_yes(call, lake_of_old_runs):
    files = sorted(lake_of_old_runs.rglob("*"))
    result = call("prune", "--older-than", "180d", "--json")
    assert result.exit_code == 0, result.output
    assert "would be pruned: 1 of 2 runs, 6 files, " in result.stdout
    assert "nothing was deleted; to delete, add --yes" in result.stdout
    assert "the newest complete run of its audit" in result.stdout
    answer = last_line(result)
    assert (answer["deleted"], answer["runs"]) == (False, 1)
    assert [(fate["run_id"][:8], fate["pruned"]) for fate in answer["fates"]] == [
        ("20200101", True),
        ("20200102", False),
    ]
    assert sorted(lake_of_old_runs.rglob("*")) == files
    result = call("prune", "--older-than", "180d", "--yes")
    assert "pruned: 1 of 2 runs, 6 files, " in result.stdout
    assert not (lake_of_old_runs / "runs" / "20200101T000000-aaaaaa" / "pairs").exists()
    assert "0 of 1 run," in call("prune", "--keep", "1").stdout
    assert call("alerts", "20200101T000000-aaaaaa").exit_code == 2
    assert "were pruned" in call("report", "20200101T000000-aaaaaa").stderr


def test_an_invalid_retention_is_bad_input(call, lake_of_old_runs):
    for arguments in (
        ["prune"],
        ["prune", "--older-than", "soon"],
        ["compact"],
        ["compact", "latest", "--all"],
        ["compact", "x"],
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert "expected" in result.stderr


def test_compact_prints_its_changes_and_continues_after_a_refused_run(call, lake_of_old_runs):
    from tasks.lake.run import Run

    stale = Run(lake_of_old_runs, "20200101T000000-aaaaaa").path("ingest_errors", "ingest")
    stale.write_bytes(stale.read_bytes() + b"x")
    result = call("compact", "--all", "--json")
    assert result.exit_code == 1
    assert "got sha256" in result.stderr
    (row,) = last_line(result)["compacted"]
    assert (row["run"], row["table"], row["files_before"], row["files_after"]) == (
        "20200102T000000-aaaaaa", "ingest_errors", 2, 1,
    )  # fmt: skip
    assert last_line(call("compact", "latest", "--json")) == {"compacted": [], "refused": []}


RULE = (
    "SELECT region, slice_kind, slice, n, share, area, effect FROM slice_shares WHERE n >= $min_pairs AND effect > 1.5"
)


@pytest.fixture(scope="module")
def measured_run(run_class, tmp_path_factory):
    """A run with min_pairs = 2, whose pairs of site a have 1.6 times the share of the corner. Not to be changed."""
    from tasks.flag import flag

    run = run_class(tmp_path_factory.mktemp("measured"), "20260101T000000-aaaaaa")
    run.begin(config={"alerts": {"factor": 2.0, "min_pairs": 2}})
    run.add_pairs(["x"] * 4, [{"site": "a"}] * 2 + [{"site": "b"}] * 2)
    run.add_attributions([[4, 2, 2, 2]] * 2 + [[1, 1, 1, 1]] * 2, (2, 2))
    run.add_regions(("corner", (0, 0, 0.5, 0.5)))
    flag.fn(run, AlertsConfig(min_pairs=2), {})
    run.finish("completed")
    return run


def test_a_rule_is_tried_with_the_parameters_of_a_run(measured_run, tmp_path):
    (tmp_path / "mine.sql").write_text(RULE)
    manifest = measured_run.read_manifest()
    command = ["rule", "try", str(tmp_path / "mine.sql"), "--lake", str(measured_run.lake), "--json"]
    for run in ("latest", measured_run.run_id):
        result = CliRunner().invoke(cli.app, [*command, run])
        assert result.exit_code == 0, result.output
        assert last_line(result)["rows"] == [
            {"region": "corner", "slice_kind": "attribute", "slice": "site=a", "n": 2, "share": 0.4, "area": 0.25,
             "effect": 1.6}
        ]  # fmt: skip
        assert f"rule mine: 1 finding on run {measured_run.run_id} with factor 2.0, min_pairs 2" in result.stderr
    assert measured_run.read_manifest() == manifest


@pytest.mark.parametrize(
    ("name", "text", "run", "message"),
    [
        ("region_mass", RULE, "latest", "other than those of built-in rules"),
        ("mine", "SELECT 1 AS one", "latest", "got the columns one, expected region"),
        ("mine", RULE.replace("region,", "'nowhere' AS region,"), "latest", "expected regions and slices of the view"),
        ("mine", RULE, "none", "expected latest, or a complete run of"),
        ("gone", None, "latest", "cannot be read"),
    ],
)
def test_a_rule_that_cannot_be_tried_is_bad_input(measured_run, tmp_path, name, text, run, message):
    if text is not None:
        (tmp_path / f"{name}.sql").write_text(text)
    command = ["rule", "try", str(tmp_path / f"{name}.sql"), run, "--lake", str(measured_run.lake)]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_contact_sheet_outlines_what_a_detector_finds(phantoms, tmp_path):
    command = ["corpus", str(phantoms), "--out", str(tmp_path / "page.html"), "--min-pairs", "10", "--json"]
    result = CliRunner().invoke(cli.app, [*command, "--detector", "burnt-in"])
    assert result.exit_code == 0, result.output
    found = last_line(result)["detected"]["burnt-in: text"]
    assert f"detected: burnt-in: text in {found} of 40 pairs of the contact sheet" in result.stdout
    outlined = [line for line in (tmp_path / "page.html").read_text().splitlines() if "burnt-in: text" in line]
    assert len(outlined) == found > 5
    assert "site: 3 values in 40 pairs; 3 slices of 10 pairs or more" in result.stdout
    assert CliRunner().invoke(cli.app, [*command, "--detector", "none"]).exit_code == 2


def test_detectors_are_listed():
    result = CliRunner().invoke(cli.app, ["detectors", "--json"])
    assert "burnt-in" in [row["name"] for row in last_line(result)["detectors"]]


def test_the_version_is_that_of_the_manifest():
    from flows.provenance import code_version

    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"m2ib-audit {code_version()}\n")
