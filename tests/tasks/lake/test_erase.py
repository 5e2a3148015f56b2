"""After an erasure, nothing in the lake identifies the person, and the lake can still be used and verified."""

import json
import re
import shutil
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import sql
import stores
from flows import cli
from flows.begin import _check_unfinished
from review.evidence.decisions import Reviewer, decide
from review.evidence.verify import verify
from review.report.html import write_report
from review.site.app import create_app
from stores import ledger
from tasks.errors import BadInputError, ResumeError
from tasks.lake import erase as stage
from tasks.lake.erase import PLAN, erase, load_plan
from tasks.lake.incremental import find_reusable_rows
from tasks.lake.journal import record_report, record_run_end
from tasks.lake.lock import lock_run
from tasks.lake.plan_erasure import plan_erasure
from tasks.notify import store_alert_history

ANN = Reviewer("Ann", "radiologist", "declared")
WHERE = "patient_id = 'WB-4711'"
NAME = "winterbourne"
CAPTIONS = ["consolidation of Mrs Winterbourne"] * 2 + ["a consolidation", "a shadow", "clear"]
ATTRIBUTES = [{"patient_id": "WB-4711", "site": "a"}] * 2 + [{"patient_id": f"OT-{n}", "site": "a"} for n in range(3)]
IDENTIFYING = ("wb-4711", NAME, "pair-0000", "pair-0001", "0.png", "1.png")


@pytest.fixture(params=["lake", pytest.param("remote_folder", marks=pytest.mark.slow)])
def root(request, monkeypatch):
    """A local and a remote lake; the latter is in this process, and does not wait for others that lock a run."""
    monkeypatch.setattr("tasks.lake.lock._SETTLE_SECONDS", 0)
    if request.param == "remote_folder":
        monkeypatch.setattr("sql.sandbox.read_table", read_in_process)
    return request.getfixturevalue(request.param)


def read_in_process(lake, with_decisions, text, limits):
    with sql.connect(lake, with_decisions=with_decisions) as connection:
        return sql.read_table(connection, text, None, limits.rows)


def add_run(run_class, root, day, status="completed", **facts):
    """Store a run with two pairs of the person in every table that can have them."""
    run = run_class(root, f"202601{day:02d}T000000-aaaaaa").begin(rules={"region_mass": "r"}, chained=True, **facts)
    run.add_pairs(CAPTIONS, ATTRIBUTES)
    run.add_attributions([[1.0] * 4] * 5, (2, 2), attributed_by=facts.get("base_run"))
    first, second, other = "pair-0000", "pair-0001", "pair-0002"
    box = {"x0": 0.0, "y0": 0.0, "x1": 0.5, "y1": 0.5}
    run.add_regions(("corner", (0, 0, 0.5, 0.5)), ("stamp 1", (0, 0, 0.5, 0.5), first))
    run.add_shares("corner", [0.5] * 5)
    run.write_table("detections", [{"pair_id": first, "region": "burnt-in: text", **box}])
    run.write_table("clusters", [{"pair_id": pair, "cluster": "map cluster 1"} for pair in (first, second, other)])
    run.write_table("collocations", [{"pair_id": first, "collocation": "mrs winterbourne"}])
    run.write_table("near_duplicates", [{"pair_id": pair, "alike": 1} for pair in (first, second, other)])
    phrase = f'"{NAME}"'
    run.write_table("phrases", [{"pair_id": first, "region": phrase, "kind": "listed", "first": 4, "last": 4}])
    run.write_table("screenings", [{"pair_id": first, "region": "corner", "margin": 0.5, "drop": 0.1}])
    run.write_table(
        "ingest_errors",
        [
            {"row_number": 9, "stage": "ingest", "caption": CAPTIONS[0], "file_name": "9.png"},
            {"row_number": 8, "stage": "ingest", "caption": "a shadow", "detail": "line 9 repeats pair-0000"},
            {"row_number": 0, "stage": "attribute", "pair_id": first, "caption": CAPTIONS[0], "file_name": "0.png"},
        ],
    )  # fmt: skip
    run.write_table("patch_features", [{"pair_id": each, "vectors": b"1", "hot": [0]} for each in (first, other)])
    run.write_table("stamps", [{"region": "stamp 1", "searched": 5}])
    run.write_table("validations", [{"suite": "corpus", "observed": "['pair-0000']", "detail": "{}"}])
    mine = {"slice_kind": "attribute", "slice": "patient_id=WB-4711", "pair_ids": [first, second]}
    run.add_alerts(
        mine,
        {"slice_kind": "attribute", "slice": "site=a", "explained_by": "patient_id=WB-4711"},
        {"pair_ids": [first, other]},
        {"slice": NAME, "interval": (0.1, 0.2, 0.3)},
        {"region": phrase, "slice_kind": "corpus", "slice": "all pairs"},
    )
    store_alert_history(run, 1)
    with sql.connect(root, run.run_id) as connection:
        (life,) = sql.read(connection, "SELECT life_id FROM lives WHERE slice = 'patient_id=WB-4711'")
    run.write_table("notifications", [{"event_id": "e", "life_id": life["life_id"], "told_at": datetime.now(UTC)}])
    run.update(counts={"corpus_rows": 7, "errors": 3, "alerts": 5}, reason="shard 0: cannot read 1.png")
    run.finish(status, "shard 0: cannot read 1.png")
    record_run_end(run)
    return run


@pytest.fixture(scope="module")
def saved_lake(run_class, tmp_path_factory):
    """A lake with two runs, reports, decisions, an export and an unfinished run; copied for each test."""
    root = tmp_path_factory.mktemp("saved") / "lake"
    runs = [add_run(run_class, root, 1), add_run(run_class, root, 2, base_run="20260101T000000-aaaaaa")]
    for run in runs:
        stores.write_bytes(run.folder / "report.html", b"<p>" + CAPTIONS[0].encode())
        record_report(run, "report.html")
    listed = runs[0].read_manifest()["config"] | {"phrases": {"listed": [NAME]}}
    unfinished = add_run(run_class, root, 3, status="failed", config=listed)
    stores.write_bytes(unfinished.folder / "parts" / "screen-00000-abc.json", b'[{"pair_id": "pair-0000"}]')
    with unfinished.open_writer("attributions", "part-00009") as writer:
        writer.write([{"pair_id": "pair-0001", "caption": CAPTIONS[1]}])
    reading = run_class(root, "20260104T000000-aaaaaa").begin()
    stores.write_bytes(
        reading.folder / "parts" / "ingest-00000-abc.json",
        b'[{"caption": "Mrs Winterbourne\\u2019s", "file_name": "0.png"}]',
    )
    reading.finish("interrupted")
    record_run_end(reading)
    stores.write_bytes(root / "exports" / "pairs.csv", b"pair_id,caption\npair-0000,x\n")
    stores.write_bytes(root / "exports" / "other.csv", b"pair_id,caption\npair-0002,x\n")
    stores.write_bytes(root / "exports" / "picture.bin", b"\xff\xfe\x00")
    for alert, reason in ((0, "this patient has many images"), (2, "Mrs Winterbourne has a tag"), (2, "a marker")):
        decide(root, ANN, runs[1].run_id, f"{runs[1].run_id}-{alert}", "benign", reason, "review")
    return root


@pytest.fixture
def filled(saved_lake, root, run_class):
    """The complete runs of a copy of the lake."""
    for path in saved_lake.rglob("*"):
        if path.is_file():
            stores.write_bytes(root / path.relative_to(saved_lake).as_posix(), path.read_bytes())
    return [run_class(root, f"202601{day:02d}T000000-aaaaaa") for day in (1, 2)]


def read_everything(root):
    """Return the content of every file of a lake, by path; Parquet files also as text."""
    for name in stores.list_sizes(root):
        data = stores.read_bytes(root / name)
        yield name, data.decode(errors="replace").lower()
        if name.endswith(".parquet"):
            yield name, str(pq.read_table(stores.fetch(root / name)).to_pylist()).lower()


def find_identifiers(root):
    return sorted({(text, name) for name, content in read_everything(root) for text in IDENTIFYING if text in content})


def run_erasure(root, where=WHERE, pairs=(), words=()):
    erasure, preview = plan_erasure(root, pairs, where, words, "the privacy officer", "DSR-1")
    return list(erase(root, erasure)), preview


@pytest.mark.parametrize("root", ["lake", "remote_folder"], indirect=True)
def test_nothing_in_the_lake_identifies_the_person(filled, root, remove_copies):
    assert find_identifiers(root)
    changed, preview = run_erasure(root)
    remove_copies()
    assert find_identifiers(root) == []
    assert len(changed) == len(preview.rows) == 3
    assert (preview.kept_records, preview.unsearched, preview.same_images) == ([], ["exports/picture.bin"], 0)
    assert not stores.is_file(root / PLAN)
    assert stores.is_file(root / "exports/other.csv")


def test_the_lake_verifies_and_names_the_erasure(filled, root):
    run_erasure(root)
    stores.remove(root / "exports", ["other.csv", "picture.bin"])  # no part of a lake
    result = verify(root, "all")
    assert result.differences == []
    notes = "\n".join(result.notes)
    assert f"erased from the run {filled[0].run_id} on " in notes
    assert "by the privacy officer: 2 pairs, " in notes
    assert "its text was erased (record " in notes
    assert "(reason: DSR-1)" in notes


def test_the_record_explains_every_changed_file(filled, root):
    before = {entry["path"]: entry["sha256"] for entry in filled[0].read_manifest()["files"]}
    run_erasure(root)
    after = {entry["path"]: entry["sha256"] for entry in filled[0].read_manifest()["files"]}
    (record,) = (
        record
        for record in ledger.read_records(root)
        if record.body.get("what") == "erased" and record.body["run_id"] == filled[0].run_id and record.body.get("rows")
    )
    changes = record.body["files"]
    assert {entry["path"]: entry["sha256"] for entry in changes} == {
        path: sha256 for path, sha256 in before.items() if path not in after
    }
    assert all(after[entry["new_path"]] == entry["new_sha256"] for entry in changes)
    assert set(record.body) == {
        "run_id", "what", "erasure", "by", "reason", "files", "pairs", "rows", "before_sha256", "manifest_sha256",
    }  # fmt: skip


def test_other_pairs_statistics_and_alerts_stay(filled, root):
    with sql.connect(root) as connection:
        statement = "SELECT n, share, effect FROM alerts WHERE slice = 'consolidation' ORDER BY run_id"
        before = sql.read(connection, statement)
    run_erasure(root)
    with sql.connect(root) as connection:
        assert sql.read(connection, statement) == before
        pairs = sql.read(connection, "SELECT DISTINCT pair_id FROM pairs ORDER BY ALL")
        assert [row["pair_id"] for row in pairs] == ["pair-0002", "pair-0003", "pair-0004"]
        alerts = sql.read(connection, "SELECT slice, explained_by, pair_ids FROM alerts ORDER BY run_id, slice")
        assert alerts[:2] == [
            {"slice": "consolidation", "explained_by": None, "pair_ids": ["pair-0002"]},
            {"slice": "site=a", "explained_by": ledger.ERASED, "pair_ids": None},
        ]
        decisions = sql.read(connection, "SELECT reason FROM reviews ORDER BY number")
        assert [row["reason"] for row in decisions] == [ledger.ERASED, ledger.ERASED, "a marker"]
        counts = sql.read(connection, "SELECT pairs, attributions, corpus_rows, errors, alerts FROM runs")[0]
        assert counts == {"pairs": 3, "attributions": 3, "corpus_rows": 4, "errors": 1, "alerts": 2}
        stamps = sql.read(connection, "SELECT * FROM stamps")
        assert stamps == []  # only an erased pair had the overlay


def test_the_report_and_all_queries_work(filled, root):
    run_erasure(root)
    for run in filled:
        write_report(root, run.run_id, by="a test")
    assert find_identifiers(root) == []
    with sql.connect(root) as connection:
        for view in sql.view_names():
            sql.read(connection, f"SELECT * FROM {view}")


def test_figures_from_before_are_not_compared_with_the_pairs_that_are_left(root, run_class):
    run = run_class(root, "20260101T000000-aaaaaa").begin(rules={"region_mass": "r"}, chained=True)
    run.add_pairs(CAPTIONS, ATTRIBUTES)
    run.add_attributions([[1.0] * 4] * 5, (2, 2))
    run.add_regions(("corner", (0, 0, 0.5, 0.5)))
    run.add_shares("corner", [0.5] * 5)
    run.add_alerts({"slice_kind": "attribute", "slice": "site=a", "n": 4})
    run.finish("completed")
    record_run_end(run)
    comparison = re.compile("In the -?[0-9]+ other pair|Share in -?[0-9]+ other pair|In all other pairs")
    url = f"/runs/{run.run_id}/alerts/{run.run_id}-0"

    def read_texts():
        with TestClient(create_app(root), "http://127.0.0.1:8765") as client:
            page = client.get(url).text
        return page, stores.read_bytes(write_report(root, run.run_id, by="a test")).decode()

    assert all(comparison.search(text) and "erased" not in text for text in read_texts())
    run_erasure(root)
    for text in read_texts():
        assert "2 pairs were erased on " in text
        assert ": figures of alerts are those from before." in text
        assert not comparison.search(text)


def test_an_incremental_run_does_not_bring_the_pairs_back(filled, root, run_class):
    run_erasure(root)
    new = run_class(root, "20260106T000000-aaaaaa").begin(base_run=filled[1].run_id)
    pairs = [{"pair_id": f"pair-{number:04d}", "caption": ""} for number in range(5)]
    assert find_reusable_rows(new, pairs)["pair_id"].to_pylist() == ["pair-0002", "pair-0003", "pair-0004"]


def test_an_unfinished_run_cannot_be_resumed(filled, root):
    run_erasure(root)
    failed = sql.read_manifests(root, "20260103T000000-aaaaaa")[0]
    assert failed["config"]["phrases"] == {"listed": []}
    with pytest.raises(ResumeError, match="had pairs erased and cannot be resumed"):
        _check_unfinished(failed)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("root", ["lake"], indirect=True)
@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=[] if step in (1, 3, 6, 9, 12) else pytest.mark.slow) for step in range(1, 13)]
)
def test_an_interrupted_erasure_can_be_completed(filled, root, monkeypatch, step):
    """The process is killed before the nth step that changes the lake."""
    steps = iter(range(1, 100))

    def kill(function):
        def stand_in(*arguments, **named):
            if next(steps) == step:
                raise _KilledError
            return function(*arguments, **named)

        return stand_in

    with monkeypatch.context() as patch:
        for owner, name in (
            (stage, "_unlink"), (stage, "remove_replaced_files"), (stage.ledger, "append"),
            (stage.Run, "_write_manifest"), (stage.stores, "write_bytes"),
        ):  # fmt: skip
            patch.setattr(owner, name, kill(getattr(owner, name)))
        with pytest.raises(_KilledError):
            run_erasure(root)
    stores.remove(root / "exports", ["other.csv", "picture.bin"])
    assert not [each for each in verify(root, "all").differences if each.file != "exports/pairs.csv"]
    erasure = load_plan(root)
    if erasure is None:  # nothing was changed
        assert step == 1
        return
    if step > 1:
        assert any("an erasure is not complete" in note for note in verify(root, "all").notes)
    list(erase(root, erasure))
    assert (find_identifiers(root), verify(root, "all").differences) == ([], [])


def test_a_pair_is_erased_by_its_id(filled, root):
    run_erasure(root, None, ["pair-0001"])
    with sql.connect(root) as connection:
        assert sql.read(connection, "SELECT DISTINCT pair_id FROM pairs WHERE pair_id < 'pair-0002'") == [
            {"pair_id": "pair-0000"}
        ]
        # The other pair still has the name and the number.
        assert sql.read(connection, "SELECT 1 FROM alerts WHERE slice = 'patient_id=WB-4711'")


def test_a_word_selects_texts_of_decisions(filled, root):
    _, preview = run_erasure(root, None, ["pair-0004"], ["MARKER"])
    with sql.connect(root) as connection:
        texts = sql.read(connection, "SELECT reason FROM reviews ORDER BY number")
    assert [row["reason"] == ledger.ERASED for row in texts] == [False, False, True]
    assert preview.records == [texts_number(root)[2]]


def texts_number(root):
    return [record.number for record in ledger.select_kinds(ledger.read_records(root), "review")]


def test_texts_of_earlier_releases_are_reported_but_stay(filled, root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "TEXT_FIELDS", {})
        run = filled[1].run_id
        record = decide(root, ANN, run, f"{run}-2", "benign", "Winterbourne again", "review")
    _, preview = run_erasure(root)
    assert preview.kept_records == [record.number]
    assert [name for _, name in find_identifiers(root)] == [f"ledger/{record.number:08d}.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["none"], None, [], "me", "DSR"), "got the pair 'none', expected the id of a pair"),
        (([], "patient_id = 'nobody'", [], "me", "DSR"), "no pair of .* matches"),
        (([], WHERE, [], "me", "Mrs Winterbourne asked"), "the reason or the name of who erases identifies the person"),
        (([], WHERE, [], "WB-4711", "DSR"), "identifies the person"),
    ],
)
def test_an_invalid_request_changes_nothing(filled, root, arguments, message):
    before = dict(read_everything(root))
    with pytest.raises(BadInputError, match=message):
        plan_erasure(root, *arguments)
    assert dict(read_everything(root)) == before


def test_the_condition_cannot_change_or_leave_the_lake(filled, root):
    for condition in ("true); DROP TABLE pairs; SELECT (1", "(SELECT count(*) FROM read_text('/etc/hostname')) > 0"):
        with pytest.raises(sql.QueryError):
            plan_erasure(root, [], condition, [], "me", "DSR")


def test_a_run_that_a_process_works_on_must_end_first(filled, run_class, root, monkeypatch):
    monkeypatch.setattr("tasks.lake.lock.TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr("tasks.lake.lock.HEARTBEAT_SECONDS", 0.02)
    running = run_class(root, "20260105T000000-aaaaaa").begin()
    with lock_run(running), pytest.raises(ResumeError, match="is locked by process"):
        run_erasure(root)


def test_a_pair_that_the_corpus_still_has_is_reported(tmp_path, run_class, lake, phantoms):
    corpus = shutil.copytree(phantoms, tmp_path / "corpus")
    name = next(path.name for path in sorted(corpus.rglob("*.png")))
    run = run_class(lake, "20260101T000000-aaaaaa").begin(corpus=str(corpus), corpus_format="folder")
    rows = run.add_pairs(["a"])
    run.write_table("pairs", [rows[0] | {"file_name": name}])
    run.finish("completed")
    record_run_end(run)
    assert plan_erasure(lake, ["pair-0000"], None, [], "me", "DSR")[1].in_corpora == {str(corpus): 1}


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["erase", *arguments])


def test_the_command_shows_asks_erases_and_writes_reports_again(run_class, lake):
    run = add_run(run_class, lake, 1)
    write_report(lake, run.run_id, by="a test")
    given = ["--where", WHERE, "--reason", "DSR-1", "--lake", str(lake)]
    shown = invoke(*given)
    assert shown.exit_code == 2
    assert "nothing was erased; to erase, add --yes" in shown.stderr
    assert f"reports to write again: runs/{run.run_id}/report.html\n" in shown.stdout
    assert "files to delete" not in shown.stdout
    assert find_identifiers(lake)
    done = invoke(*given, "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "pairs": 2, "runs": [run.run_id], "files": [f"runs/{run.run_id}/report.html"], "complete": True,
    }  # fmt: skip
    assert (run.folder / "report.html").is_file()
    assert find_identifiers(lake) == []
    assert verify(lake, "all").differences == []
    assert invoke("--resume", "--lake", str(lake)).exit_code == 2
    assert "expected --pair or --where" in invoke("--lake", str(lake)).stderr
