"""Only old runs are pruned, nothing that is referred to, and every deleted file is on record."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

import sql
import stores
from stores import LakeError
from tasks.lake import prune as stage
from tasks.lake.run import Run
from tasks.lake.lock import lock_run
from tasks.lake.prune import RetentionPolicy, plan_pruning, prune_run
from tasks.lake.incremental import find_base
from tasks.notify import store_alert_history

NOW = datetime(2026, 7, 1, tzinfo=UTC)
OLD = RetentionPolicy(older_than=timedelta(days=90))
ALL = RetentionPolicy(older_than=timedelta(0))
MIN_PAIRS = 3


@pytest.fixture(params=["here", "elsewhere"])
def root(request):
    return request.getfixturevalue("lake" if request.param == "here" else "away")


@pytest.fixture
def quick(monkeypatch):
    """Do not wait for other processes that lock a run in remote storage."""
    monkeypatch.setattr("tasks.lake.lock._SETTLE_SECONDS", 0)


@pytest.fixture
def ended(hand_written_run):
    """ended(lake, month, alerts..., status=, **facts): a run of the first of a month, with its alert history if `follow`."""

    def run(lake, month, *alerts, status="completed", follow=False, **facts):
        made = hand_written_run(lake, f"2026{month:02d}01T000000-aaaaaa")
        made.begin(**({"rules": {"region_mass": "r"}} | facts))
        made.add_pairs(["a consolidation"] * 4)
        made.add_attributions([[1.0] * 4] * 4, (2, 2))
        made.add_regions(("corner", (0, 0, 0.5, 0.5)))
        made.add_alerts(*alerts)
        made.update(started_at=f"2026-{month:02d}-01T00:00:00+00:00")
        if follow:
            store_alert_history(made, MIN_PAIRS)
        made.finish(status)
        made.update(finished_at=f"2026-{month:02d}-01T01:00:00+00:00")
        return made

    return run


def name(month):
    return f"2026{month:02d}01T000000-aaaaaa"


def goes(lake, policy=ALL):
    return [int(fate.run_id[4:6]) for fate in plan_pruning(lake, policy, NOW) if fate.pruned]


def why(lake, month, policy=ALL):
    (fate,) = [fate for fate in plan_pruning(lake, policy, NOW) if fate.run_id == name(month)]
    return fate.why


def pruned(lake, policy=ALL):
    fates = [fate for fate in plan_pruning(lake, policy, NOW) if fate.pruned]
    return [prune_run(lake, fate) for fate in fates]


def test_old_runs_are_pruned_but_never_the_newest_complete_run_of_an_audit(lake, ended):
    for month in (1, 2, 3, 6):
        ended(lake, month)
    ended(lake, 4, corpus="another")
    assert goes(lake, OLD) == [1, 2, 3]
    assert goes(lake, ALL) == [1, 2, 3]
    assert why(lake, 6, OLD) == why(lake, 4, OLD) == "the newest complete run of its audit"


def test_the_newest_complete_runs_of_each_audit_are_kept(lake, ended):
    for month in (1, 2, 3):
        ended(lake, month)
    for month in (4, 5, 6):
        ended(lake, month, model="another")
    assert goes(lake, RetentionPolicy(keep=2)) == [1, 4]
    assert why(lake, 2, RetentionPolicy(keep=2)) == "one of the 2 newest complete runs of its audit"
    assert goes(lake, RetentionPolicy(timedelta(days=120), keep=1)) == [1, 2]  # both: the fourth month is young


def test_a_run_that_may_be_resumed_stays_until_a_later_one_is_complete(lake, ended):
    ended(lake, 1, status="failed")
    ended(lake, 2)
    ended(lake, 3, status="interrupted")
    assert goes(lake, RetentionPolicy(keep=1)) == [1]
    assert why(lake, 3, RetentionPolicy(keep=1)) == "no later run of its audit is complete"
    assert goes(lake, OLD) == [1, 3]  # nobody has resumed it in all that time


def test_runs_of_an_open_alert_stay_and_go_once_it_is_resolved(lake, ended):
    raised = {"region": "corner"}
    for month in (1, 2, 3):
        ended(lake, month, raised, follow=True)
    ended(lake, 4, config_digest="other settings", follow=True)  # could not have seen it: open all the same
    assert goes(lake) == [2]
    assert "alert" in why(lake, 1)
    assert why(lake, 1).endswith("is open")
    assert "is open" in why(lake, 3)
    ended(lake, 5, follow=True)  # the settings of before: seen to be gone
    assert goes(lake) == [1, 2, 3, 4]


def test_a_resolved_alert_keeps_nothing_even_if_that_run_is_gone(lake, ended):
    ended(lake, 1, {"region": "corner"}, follow=True)
    ended(lake, 2, follow=True)
    ended(lake, 3, follow=True)
    ended(lake, 4, follow=True, base_run=name(1))
    assert goes(lake) == [2, 3]
    pruned(lake)
    ended(lake, 5, follow=True)
    assert goes(lake) == [1, 4]


def test_alerts_without_a_history_keep_their_run_while_it_is_the_newest(lake, ended):
    ended(lake, 1, {"region": "corner"})
    ended(lake, 2, {"region": "corner"})
    assert goes(lake) == [1]
    ended(lake, 3, {"region": "corner"}, follow=True)
    assert goes(lake) == [1]
    assert "is open" in why(lake, 2)  # where its history begins


def test_the_alert_history_is_kept_though_a_newer_run_has_none(lake, ended):
    ended(lake, 1, {"region": "corner"}, follow=True)
    ended(lake, 2, {"region": "corner"}, follow=True)
    ended(lake, 3, reflags=name(2))
    assert goes(lake) == []
    ended(lake, 4)
    assert goes(lake) == [3]
    assert "open" in why(lake, 2)


def test_what_a_kept_run_builds_upon_is_kept(lake, ended):
    for month in (1, 2, 3, 4):
        ended(lake, month)
    ended(lake, 5, base_run=name(1), calibration_run=name(2), reflags=name(3))
    ended(lake, 6)
    assert goes(lake, RetentionPolicy(keep=1)) == [1, 2, 3, 4, 5]
    assert goes(lake, RetentionPolicy(keep=2)) == [4]
    assert {why(lake, month, RetentionPolicy(keep=2)) for month in (1, 2, 3)} == {
        f"run {name(5)} builds upon it",
        f"run {name(5)} uses its feature statistics",
        f"run {name(5)} uses its attributions",
    }


def test_a_chain_of_nights_does_not_keep_them_all(lake, ended):
    ended(lake, 1)
    for month in (2, 3, 4, 5):
        ended(lake, month, base_run=name(month - 1), calibration_run=name(1))
    assert goes(lake, RetentionPolicy(keep=2)) == [2]  # 4 and 5 are kept, 3 is the base of 4, all have their statistics from 1


def test_a_plan_deletes_nothing(lake, ended):
    root = lake
    ended(root, 1)
    ended(root, 2)
    before = stores.list_sizes(root)
    (fate,) = [fate for fate in plan_pruning(root, ALL, NOW) if fate.pruned]
    assert stores.list_sizes(root) == before
    of_run = {name: size for name, size in before.items() if name.startswith(f"runs/{fate.run_id}/")}
    of_run.pop(f"runs/{fate.run_id}/manifest.json")
    assert (fate.files, fate.bytes) == (len(of_run), sum(of_run.values()))


def test_the_manifest_of_a_pruned_run_accounts_for_every_file(root, ended, quick):
    old, new = ended(root, 1), ended(root, 2)
    stores.write_bytes(old.folder / "report.html", b"a report")
    manifest = stores.read_bytes(old.folder / "manifest.json")
    kept = {name: size for name, size in stores.list_sizes(root).items() if new.run_id in name}
    assert pruned(root) == [None]
    left = stores.list_sizes(old.folder)
    record = old.read_manifest()
    (noted,) = record["earlier_manifests"]
    assert set(left) == {"manifest.json", noted["manifest"]}
    assert stores.read_bytes(old.folder / noted["manifest"]) == manifest
    assert noted["sha256"] == hashlib.sha256(manifest).hexdigest()
    assert (noted["what"], noted["why"]) == ("pruned", "--older-than 0d")
    assert (record["status"], record["files"], record["pruned"]["status"]) == ("pruned", [], "completed")
    assert record["counts"] == json.loads(manifest)["counts"]
    assert old.read_earlier_manifests() == [json.loads(manifest)]
    assert {name: size for name, size in stores.list_sizes(root).items() if new.run_id in name} == kept
    assert goes(root) == []


def test_readers_find_a_pruned_run_without_rows(lake, ended):
    root = lake
    old, new = ended(root, 1), ended(root, 2)
    before = [row for row in _pairs(root) if row["run_id"] == new.run_id]
    pruned(root)
    assert _pairs(root) == before
    with sql.connect(root) as connection:
        rows = sql.read(connection, "SELECT run_id, status, reason, pairs FROM runs ORDER BY run_id")
    assert rows[0] == {
        "run_id": old.run_id, "status": "pruned", "reason": "pruned by --older-than 0d; was completed", "pairs": 4,
    }  # fmt: skip
    with sql.connect(root, old.run_id) as connection:
        assert sql.read(connection, "FROM pairs") == []


def _pairs(root):
    with sql.connect(root) as connection:
        return sql.read(connection, "SELECT * FROM pairs ORDER BY ALL")


def test_nothing_builds_upon_a_pruned_run(lake, ended):
    facts = {"corpus": "c", "model_digest": "d", "code_version": "v", "environment": {}}
    ended(lake, 1, config={"bottleneck": 1})
    ended(lake, 2, config={"bottleneck": 2})
    assert find_base(lake, facts | {"config": {"bottleneck": 1}})["base_run"] == name(1)
    pruned(lake)
    assert find_base(lake, facts | {"config": {"bottleneck": 1}})["base_run"] is None


def test_an_interrupted_pruning_is_finished_by_the_next(root, ended, quick, monkeypatch):
    old = ended(root, 1)
    ended(root, 2)
    with monkeypatch.context() as patch:
        patch.setattr(stage.stores, "remove", _killed)
        with pytest.raises(KeyboardInterrupt):
            pruned(root)
    assert old.read_manifest()["status"] == "pruned"
    assert {row["run_id"] for row in _pairs(root)} == {name(2)}
    (fate,) = [fate for fate in plan_pruning(root, ALL, NOW) if fate.pruned]
    assert (fate.run_id, fate.why) == (old.run_id, "left over")
    assert fate.files > 3
    assert pruned(root) == [None]
    assert goes(root) == []
    assert len(old.read_manifest()["earlier_manifests"]) == 1


def _killed(*_):
    raise KeyboardInterrupt


def test_a_run_that_is_locked_or_has_changed_is_kept(lake, ended):
    old = ended(lake, 1, status="failed")
    ended(lake, 2)
    (fate,) = [fate for fate in plan_pruning(lake, ALL, NOW) if fate.pruned]
    with lock_run(old):
        assert "is locked by process" in prune_run(lake, fate)
    old.update(status="completed")
    assert prune_run(lake, fate) == "its status is completed by now"
    assert (old.folder / "pairs").is_dir()


def test_a_lake_that_cannot_be_read_in_full_is_not_pruned(lake, ended):
    ended(lake, 1)
    ended(lake, 2).path("pairs").unlink()
    with pytest.raises(LakeError, match="pairs"):
        plan_pruning(lake, ALL, NOW)


def test_a_changed_earlier_manifest_is_detected(lake, ended):
    old = ended(lake, 1)
    ended(lake, 2)
    pruned(lake)
    (noted,) = old.read_manifest()["earlier_manifests"]
    (old.folder / noted["manifest"]).write_text("{}")
    with pytest.raises(LakeError, match="damaged"):
        Run(lake, old.run_id).read_earlier_manifests()
