"""Lakes in object storage: the command line, and audits under Prefect into S3."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from typer.testing import CliRunner

import sql
import stores
from flows import cli
from stores import lake_root
from tasks.ingest import ingest

ROOT = Path(__file__).resolve().parent.parent.parent
DIFFERS_PER_RUN = {
    "run_id", "alert_id", "raised_at", "base_run", "attributed_by", "observed", "told_at", "sent_at",
    # Derived from the id of the run, in the alert history and in notifications.
    "life_id", "leader", "lasting_region", "lasting_slice", "first_run", "first_seen", "last_run", "last_seen",
    "lasting_alert_id", "previous_run", "event_id", "dedup_key",
}  # fmt: skip


@pytest.fixture
def remote_run(remote_folder, hand_written_run):
    """A completed run with an alert, in object storage."""
    run = type(hand_written_run)(remote_folder, hand_written_run.run_id).begin()
    run.add_pairs(["a nodule"])
    run.write_table("alerts", [{
        "alert_id": "x", "state": "suspected", "rule": "region_mass", "side": "image", "region": "frame",
        "slice_kind": "corpus", "slice": "all pairs", "n": 1, "share": 0.5, "area": 0.1, "effect": 5.0,
        "pair_ids": ["pair-0000"],
    }])  # fmt: skip
    run.finish("completed")
    for path in stores.scratch_folder().glob("*.copy"):
        path.unlink()  # as if they were read by another process
    return run


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def last_line(result):
    return json.loads(result.stdout.splitlines()[-1])


def test_reading_commands_accept_a_url(remote_run):
    lake = str(remote_run.lake)
    assert lake.startswith("memory://")
    result = call("sql", "SELECT region FROM alerts", "--lake", lake, "--json")
    assert (result.exit_code, last_line(result)) == (0, {"rows": [{"region": "frame"}]})
    result = call("alerts", "--lake", lake)
    assert (result.exit_code, "frame" in result.stdout) == (0, True)


def test_a_report_is_written_to_object_storage_or_a_local_file(remote_run, tmp_path):
    lake = str(remote_run.lake)
    result = call("report", "latest", "--lake", lake, "--json")
    assert result.exit_code == 0, result.output
    url = f"{lake}/runs/{remote_run.run_id}/report.html"
    assert last_line(result) == {"report": url}
    page = stores.read_bytes(lake_root(url))
    assert remote_run.run_id.encode() in page
    result = call("report", remote_run.run_id, "--lake", lake, "--out", tmp_path / "page.html")
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_bytes() == page


@pytest.mark.parametrize(
    ("command", "code"),
    [(("sql", "FROM alerts"), 0), (("alerts",), 2), (("alerts", "RUN"), 2), (("report", "latest"), 2)],
)
def test_a_damaged_file_is_reported(remote_run, command, code, caplog):
    """A query leaves the run out, with a warning; what needs the run refuses it."""
    stores.write_bytes(remote_run.path("alerts"), b"damaged")
    result = call(*(part.replace("RUN", remote_run.run_id) for part in command), "--lake", remote_run.lake)
    assert result.exit_code == code
    assert "alerts/part-00000.parquet is damaged" in (result.stderr if code else caplog.text)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("sql", "FROM alerts"), ("alerts",), ("report", "latest"), ("demo",)])
@pytest.mark.parametrize(
    ("lake", "message"),
    [
        ("s3://KEY:hidden@bucket/lake", "holds a user, password or key"),
        ("https://host/lake", "object storage with atomic uploads"),
        ("gs://bucket/lake", "driver is not installed"),
    ],
)
def test_an_unusable_url_is_bad_input(monkeypatch, command, lake, message):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    result = call(*command, "--lake", lake)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "hidden" not in result.output


@pytest.mark.parametrize("command", [("sql", "FROM alerts"), ("alerts",), ("report", "latest")])
def test_a_missing_bucket_is_bad_input(s3, command):
    for lake in ("s3://no-such-bucket/lake", f"s3://{s3.bucket}/no-such-lake"):
        result = call(*command, "--lake", lake)
        assert result.exit_code == 2
        assert lake in result.stderr
        assert "run an audit first" in result.stderr


def test_an_audit_does_not_create_a_missing_bucket(settings, phantoms, s3):
    from flows.begin import begin
    from tasks.errors import BadInputError

    config = settings(phantoms, "s3://no-such-bucket/lake")
    with pytest.raises(BadInputError, match=r"s3://no-such-bucket/.* cannot be written .*create the bucket"):
        begin(config, config.models(), None)
    assert not S3FileSystem().exists("no-such-bucket")


@pytest.fixture
def fail_uploads(monkeypatch):
    """fail_uploads(part, error): make uploads to S3 fail if their key contains `part`; returns the keys that failed."""
    call_s3 = S3FileSystem._call_s3

    def start(part, error):
        failed = []

        async def call_or_fail(self, method, *args, **kwargs):
            if method == "put_object" and part in kwargs["Key"]:
                failed.append(kwargs["Key"])
                raise error
            return await call_s3(self, method, *args, **kwargs)

        monkeypatch.setattr(S3FileSystem, "_call_s3", call_or_fail)
        return failed

    yield start
    monkeypatch.undo()


def test_no_run_begins_without_permission(settings, phantoms, s3, fail_uploads):
    from flows.begin import begin
    from tasks.errors import BadInputError

    fail_uploads("denied/", PermissionError("Access Denied"))
    config = settings(phantoms, f"s3://{s3.bucket}/denied")
    with pytest.raises(BadInputError, match=r"cannot be written \(.*Access Denied.*check the credentials"):
        begin(config, config.models(), None)


def read_comparable_rows(lake, view):
    """Return the rows as text, without the columns that differ per run.

    Numbers have 12 digits: DuckDB adds up in an order that depends on the run's id.
    """
    with sql.connect(lake) as connection:
        rows = sql.read(connection, f"FROM {view} ORDER BY ALL")
    filtered = (
        {
            key: f"{value:.12g}" if isinstance(value, float) else value
            for key, value in row.items()
            if key not in DIFFERS_PER_RUN
        }
        for row in rows
    )
    return sorted(json.dumps(row, default=str, sort_keys=True) for row in filtered)


@pytest.mark.slow
def test_a_lake_on_s3_has_the_same_rows_as_a_folder(prefect_harness, settings, phantoms, tmp_path, s3):
    from flows.audit import audit

    options = {"clusters": {"enabled": True}, "confirm": {"pairs": 16}}
    url = f"s3://{s3.bucket}/same rows"
    local, remote = (audit(settings(phantoms, lake, **options)) for lake in (tmp_path / "lake", url))
    assert (remote.status, remote.reason, remote.alerts > 0) == ("completed", None, True)
    assert str(remote.report) == f"{url}/runs/{remote.run_id}/report.html"
    for path in stores.scratch_folder().glob("*.copy"):
        path.unlink()  # what follows is read from the store
    roots = tmp_path / "lake", lake_root(url)
    for view in sorted({*sql.view_names()} - {"runs"}):
        assert read_comparable_rows(roots[0], view) == read_comparable_rows(roots[1], view), view
    # The reports have the same rows, but not the same run and time.
    assert abs(len(stores.read_bytes(remote.report)) - len(local.report.read_bytes())) < 2000


@pytest.mark.slow
def test_a_run_is_resumed_after_an_upload_failed(prefect_harness, settings, phantoms, s3, fail_uploads, monkeypatch):
    from flows.audit import audit

    config = settings(phantoms, f"s3://{s3.bucket}/interrupted", bottleneck={"steps": 1})
    failed = fail_uploads("/attributions/part-00001", ConnectionError("connection lost"))
    with pytest.raises(sql.LakeError, match=r"connection lost\); check the network"):
        audit(config)
    assert len(failed) == 4  # three retries
    monkeypatch.undo()
    (record,) = sql.read_manifests(config.lake.root)
    assert (record["status"], record["counts"]["attributions"]) == ("failed", 0)
    for path in stores.scratch_folder().glob("*.copy"):
        path.unlink()  # as if another process resumed the run
    s3.requests.clear()
    result = audit(config, resume=record["run_id"])
    assert (result.status, result.attributions) == ("completed", 40)
    assert [path.rpartition("/")[2][:10] for path in s3.list_requests("PUT") if "/attributions/" in path] == [
        "part-00001"
    ]
    # An incremental run attributes no pair.
    incremental = settings(
        phantoms, config.lake.path, bottleneck={"steps": 1}, lake={"incremental": True, "shard_size": 7}
    )
    second = audit(incremental)
    assert (second.status, second.attributions) == ("completed", 40)
    with sql.connect(config.lake.root) as connection:
        (row,) = sql.read(connection, "SELECT base_run, reused FROM runs ORDER BY run_id DESC LIMIT 1")
    assert row == {"base_run": record["run_id"], "reused": 40}
    assert (
        read_comparable_rows(config.lake.root, "attributions")[::2]
        == read_comparable_rows(config.lake.root, "attributions")[1::2]
    )


@pytest.mark.slow
def test_an_unreachable_store_does_not_hide_the_first_error(
    prefect_harness, settings, phantoms, s3, fail_uploads, monkeypatch
):
    from flows.audit import audit
    from flows.begin import begin

    config = settings(phantoms, f"s3://{s3.bucket}/stays away", bottleneck={"steps": 1})
    run = begin(config, config.models(), None)
    original = ingest.fn

    @functools.wraps(original)
    def disconnect(*args):
        fail_uploads("stays away/", ConnectionError("connection lost"))
        return original(*args)

    monkeypatch.setattr(ingest, "fn", disconnect)
    with pytest.raises(sql.LakeError, match=r"ingest.parquet cannot be written .*connection lost"):
        audit(config, resume=run.run_id)
    monkeypatch.undo()
    assert run.read_manifest()["status"] == "running"
    assert audit(config, resume=run.run_id).status == "completed"


@pytest.mark.slow
def test_processes_share_a_lake_on_s3(prefect_environment, phantoms, s3, tmp_path):
    """Each command is a separate process, which shares only the bucket with the others."""
    environment = prefect_environment | {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    (tmp_path / "AUDIT.toml").write_text(
        f'[corpus]\npath = "{phantoms}"\n[model]\narchitecture = "demo/shortcut"\ndevice = "cpu"\n'
        f'[alerts]\nmin_pairs = 5\n[confirm]\nenabled = false\n[lake]\npath = "s3://{s3.bucket}/shared"\n'
    )

    def run_program(*arguments):
        return subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip

    process = run_program("run", "AUDIT.toml", "--json")
    assert process.returncode == 3, process.stderr
    answer = json.loads(process.stdout.splitlines()[-1])
    assert answer["report"] == f"s3://{s3.bucket}/shared/runs/{answer['run_id']}/report.html"
    lake = ("--lake", f"s3://{s3.bucket}/shared")
    process = run_program("alerts", "--json", *lake)
    assert process.returncode == 0, process.stderr
    assert len(json.loads(process.stdout)["alerts"]) == answer["alerts"]
    process = run_program("report", "latest", *lake)
    assert (process.returncode, process.stdout.strip()) == (0, answer["report"]), process.stderr
    process = run_program("run", "AUDIT.toml", "--incremental", "--json")
    assert process.returncode == 3, process.stderr
    process = run_program("sql", "SELECT reused FROM runs ORDER BY run_id", "--json", *lake)
    assert json.loads(process.stdout) == {"rows": [{"reused": 0}, {"reused": 40}]}, process.stderr
    assert not (tmp_path / "lake").exists()
    assert not list(tmp_path.glob("m2ib-audit-*"))  # the processes have removed their local copies
