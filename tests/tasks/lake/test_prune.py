"""Only old runs that nothing refers to are pruned, and every deleted file is recorded."""

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

import sql
import stores
from stores import LakeError
from tasks.lake import prune as stage
from tasks.lake.incremental import find_base
from tasks.lake.journal import record_run_end
from tasks.lake.lock import lock_run
from tasks.lake.prune import RetentionPolicy, plan_pruning, prune_run
from tasks.notify import store_alert_history

NOW = datetime(2026, 7, 1, tzinfo=UTC)
OLD = RetentionPolicy(older_than=timedelta(days=90))
ALL = RetentionPolicy(older_than=timedelta(0))
MIN_PAIRS = 3


@pytest.fixture(params=["lake", "remote_folder"])
def root(request, monkeypatch):
    """A local and a remote lake; a remote one does not wait for other processes that lock a run."""
    monkeypatch.setattr("tasks.lake.lock._SETTLE_SECONDS", 0)
    return request.getfixturevalue(request.param)


@pytest.fixture
def add_run(run_class):
    """add_run(lake, month, alerts..., status=, history=, **facts): a run of the first of a month that has ended."""

    def add(lake, month, *alerts, status="completed", history=False, **facts):
        run = run_class(lake, make_run_id(month)).begin(**({"rules": {"region_mass": "r"}} | facts))
        run.add_pairs(["a consolidation"] * 4)
        if alerts or history:
            run.add_attributions([[1.0] * 4] * 4, (2, 2))
            run.add_regions(("corner", (0, 0, 0.5, 0.5)))
            run.add_alerts(*alerts)
        run.update(started_at=f"2026-{month:02d}-01T00:00:00+00:00")
        if history:
            store_alert_history(run, MIN_PAIRS)
        run.finish(status)
        run.update(finished_at=f"2026-{month:02d}-01T01:00:00+00:00")
        record_run_end(run)
        return run

    return add


@pytest.fixture(scope="module")
def saved_lake(tmp_path_factory):
    return tmp_path_factory.mktemp("saved") / "lake"


@pytest.fixture
def lake_with_alert(add_run, lake, saved_lake):
    """A lake with the same open alert in three runs; computed once and copied for each test."""
    if not saved_lake.exists():
        for month in (1, 2, 3):
            add_run(saved_lake, month, {}, history=True)
    shutil.copytree(saved_lake, lake, dirs_exist_ok=True)
    return lake


def make_run_id(month):
    return f"2026{month:02d}01T000000-aaaaaa"


def make_plan(lake, policy=ALL):
    return {int(item.run_id[4:6]): item for item in plan_pruning(lake, policy, NOW)}


def list_pruned_months(plan):
    return [month for month, item in plan.items() if item.pruned]


def prune(lake, policy=ALL):
    return [prune_run(lake, item) for item in make_plan(lake, policy).values() if item.pruned]


def read_pairs(root):
    with sql.connect(root) as connection:
        return sql.read(connection, "SELECT * FROM pairs ORDER BY ALL")


def test_old_runs_are_pruned_but_never_the_newest_complete_run_of_an_audit(lake, add_run):
    for month in (1, 2, 3, 6):
        add_run(lake, month)
    add_run(lake, 4, corpus="another")
    items = make_plan(lake, OLD)
    assert list_pruned_months(items) == list_pruned_months(make_plan(lake)) == [1, 2, 3]
    assert items[6].why == items[4].why == "the newest complete run of its audit"


def test_the_newest_complete_runs_of_each_audit_are_kept(lake, add_run):
    for month in (1, 2, 3, 4, 5, 6):
        add_run(lake, month, model="a" if month < 4 else "b")
    items = make_plan(lake, RetentionPolicy(keep=2))
    assert list_pruned_months(items) == [1, 4]
    assert items[2].why == "one of the 2 newest complete runs of its audit"
    # With both limits, the run of the fourth month is not old enough.
    assert list_pruned_months(make_plan(lake, RetentionPolicy(timedelta(days=120), keep=1))) == [1, 2]


def test_a_run_that_may_be_resumed_stays_until_a_later_one_is_complete(lake, add_run):
    add_run(lake, 1, status="failed")
    add_run(lake, 2)
    add_run(lake, 3, status="interrupted")
    items = make_plan(lake, RetentionPolicy(keep=1))
    assert list_pruned_months(items) == [1]
    assert items[3].why == "no later run of its audit is complete"
    assert list_pruned_months(make_plan(lake, OLD)) == [1, 3]  # pruned because of its age


def test_the_first_and_last_run_of_an_alert_stay_until_it_is_resolved(lake_with_alert, add_run):
    lake = lake_with_alert
    other = {"config": {"alerts": {"factor": 9.0}}, "config_digest": "other settings"}
    add_run(lake, 4, **other, history=True)  # could not have raised it: it stays open
    items = make_plan(lake)
    assert list_pruned_months(items) == [2]
    assert "alert" in items[1].why
    assert items[1].why.endswith("is open")
    assert "is open" in items[3].why
    add_run(lake, 5, history=True)  # could have raised it: it is resolved
    assert list_pruned_months(make_plan(lake)) == [1, 2, 3, 4]
    # It stays resolved although the run that resolved it is pruned.
    add_run(lake, 6, history=True, base_run=make_run_id(1))
    assert list_pruned_months(make_plan(lake)) == [2, 3, 4, 5]
    prune(lake)
    add_run(lake, 7, history=True)
    assert list_pruned_months(make_plan(lake)) == [1, 6]


def test_the_alert_history_is_kept_if_newer_runs_have_none(lake_with_alert, add_run):
    add_run(lake_with_alert, 4, reflags=make_run_id(3))
    assert list_pruned_months(make_plan(lake_with_alert)) == [2]
    add_run(lake_with_alert, 5)
    items = make_plan(lake_with_alert)
    assert list_pruned_months(items) == [2, 4]
    assert "open" in items[3].why


def test_alerts_without_a_history_keep_their_run_while_it_is_the_newest(lake, add_run):
    add_run(lake, 1, {})
    add_run(lake, 2, {})
    assert list_pruned_months(make_plan(lake)) == [1]
    add_run(lake, 3, {}, history=True)
    items = make_plan(lake)
    assert list_pruned_months(items) == [1]
    assert "is open" in items[2].why  # its history begins there


def test_what_a_kept_run_builds_upon_is_kept(lake, add_run):
    for month in (1, 2, 3, 4):
        add_run(lake, month)
    add_run(lake, 5, base_run=make_run_id(1), calibration_run=make_run_id(2), reflags=make_run_id(3))
    add_run(lake, 6)
    assert list_pruned_months(make_plan(lake, RetentionPolicy(keep=1))) == [1, 2, 3, 4, 5]
    items = make_plan(lake, RetentionPolicy(keep=2))
    assert list_pruned_months(items) == [4]
    assert [items[month].why for month in (1, 2, 3)] == [
        f"run {make_run_id(5)} builds upon it",
        f"run {make_run_id(5)} uses its feature statistics",
        f"run {make_run_id(5)} uses its attributions",
    ]


def test_the_base_of_a_base_is_not_kept(lake, add_run):
    add_run(lake, 1)
    for month in (2, 3, 4, 5):
        add_run(lake, month, base_run=make_run_id(month - 1), calibration_run=make_run_id(1))
    # 4 and 5 are kept, 3 is the base of 4, all have their statistics from 1.
    assert list_pruned_months(make_plan(lake, RetentionPolicy(keep=2))) == [2]


def test_a_plan_deletes_nothing(lake, add_run):
    add_run(lake, 1)
    add_run(lake, 2)
    before = stores.list_sizes(lake)
    item = make_plan(lake)[1]
    assert stores.list_sizes(lake) == before
    of_run = {path: size for path, size in before.items() if path.startswith(f"runs/{item.run_id}/")}
    of_run.pop(f"runs/{item.run_id}/manifest.json")
    assert (item.files, item.bytes) == (len(of_run), sum(of_run.values()))


def test_the_manifest_of_a_pruned_run_accounts_for_every_file_and_readers_find_no_rows(root, add_run):
    old, new = add_run(root, 1), add_run(root, 2)
    stores.write_bytes(old.folder / "report.html", b"a report")
    manifest = stores.read_bytes(old.folder / "manifest.json")
    sizes_before = stores.list_sizes(new.folder)
    pairs = [row for row in read_pairs(root) if row["run_id"] == new.run_id]
    assert prune(root) == [None]
    record = old.read_manifest()
    (entry,) = record["earlier_manifests"]
    assert set(stores.list_sizes(old.folder)) == {"manifest.json", entry["manifest"]}
    assert stores.read_bytes(old.folder / entry["manifest"]) == manifest
    assert entry["sha256"] == hashlib.sha256(manifest).hexdigest()
    assert (entry["what"], entry["why"]) == ("pruned", "--older-than 0d")
    assert (record["status"], record["files"], record["pruned"]["status"]) == ("pruned", [], "completed")
    assert record["counts"] == json.loads(manifest)["counts"]
    assert old.read_earlier_manifests() == [json.loads(manifest)]
    assert stores.list_sizes(new.folder) == sizes_before
    assert list_pruned_months(make_plan(root)) == []
    assert read_pairs(root) == pairs
    with sql.connect(root) as connection:
        rows = sql.read(connection, "SELECT run_id, status, reason, pairs FROM runs ORDER BY run_id")
    reason = "pruned by --older-than 0d; was completed"
    assert rows[0] == {"run_id": old.run_id, "status": "pruned", "reason": reason, "pairs": 4}
    with sql.connect(root, old.run_id) as connection:
        assert sql.read(connection, "FROM pairs") == []


def test_no_run_builds_upon_a_pruned_one(lake, add_run):
    facts = {"corpus": "c", "model_digest": "d", "code_version": "v", "environment": {}}
    add_run(lake, 1, config={"bottleneck": {"steps": 1}})
    add_run(lake, 2, config={"bottleneck": {"steps": 2}})
    assert find_base(lake, facts | {"config": {"bottleneck": {"steps": 1}}})["base_run"] == make_run_id(1)
    prune(lake)
    assert find_base(lake, facts | {"config": {"bottleneck": {"steps": 1}}})["base_run"] is None


def test_an_interrupted_pruning_is_finished_by_the_next(root, add_run, monkeypatch):
    old = add_run(root, 1)
    add_run(root, 2)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage.stores, "remove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prune(root)
    assert old.read_manifest()["status"] == "pruned"
    assert {row["run_id"] for row in read_pairs(root)} == {make_run_id(2)}
    items = make_plan(root)
    assert list_pruned_months(items) == [1]
    assert (items[1].why, items[1].files) == ("left over", 1)
    assert prune(root) == [None]
    assert list_pruned_months(make_plan(root)) == []
    assert len(old.read_manifest()["earlier_manifests"]) == 1


def test_a_run_that_is_locked_or_has_changed_is_kept(lake, add_run):
    old = add_run(lake, 1, status="failed")
    add_run(lake, 2)
    item = make_plan(lake)[1]
    with lock_run(old):
        assert "is locked by process" in prune_run(lake, item)
    old.update(status="completed")
    assert prune_run(lake, item) == "its status is now completed"
    assert (old.folder / "pairs").is_dir()


def test_a_damaged_run_is_kept_and_counts_as_if_it_did_not_exist(lake, add_run):
    runs = [add_run(lake, month) for month in (1, 2, 3)]
    runs[-1].path("pairs").unlink()
    items = {item.run_id: item for item in plan_pruning(lake, ALL, NOW)}
    assert [items[make_run_id(month)].pruned for month in (1, 2, 3)] == [True, False, False]
    assert items[make_run_id(3)].status == "damaged"


def test_a_changed_earlier_manifest_is_detected(lake, add_run):
    old = add_run(lake, 1)
    old.rewrite("compacted", "because")
    (entry,) = old.read_manifest()["earlier_manifests"]
    (old.folder / entry["manifest"]).write_text("{}")
    with pytest.raises(LakeError, match="damaged"):
        old.read_earlier_manifests()
