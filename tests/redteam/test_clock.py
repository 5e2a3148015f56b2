"""When the clock goes back, runs are ordered by the ledger, not by their ids."""

import pytest
from starlette.testclient import TestClient

import sql
from flows.reflag import complete_run
from review.evidence.decisions import Reviewer, decide, find_decision
from review.evidence.verify import verify
from review.site.app import create_app
from review.site.lake_cache import LakeCache
from review.site.settings import ReviewSettings
from stores import ledger
from tasks.lake.incremental import find_base
from tasks.lake.journal import record_run_begin, record_run_end
from tasks.lake.prune import RetentionPolicy, plan_pruning
from tasks.notify import _find_neighbors, store_alert_history

ANN = Reviewer("Ann", "radiologist", "declared")
IDS = ("20260105T000000-aaaaaa", "20260101T000000-bbbbbb", "20260103T000000-cccccc")


@pytest.fixture
def runs(run_class, lake):
    """Three runs in the order of the ledger; the clock went back by days after the first."""
    found = []
    for run_id in IDS:
        run = run_class(lake, run_id)
        run.begin(rules={"region_mass": "r"})
        record_run_begin(run)
        run.add_pairs(["a consolidation"] * 4)
        run.add_attributions([[1.0] * 4] * 4, (2, 2))
        run.add_regions(("corner", (0, 0, 0.5, 0.5)))
        run.add_alerts({})
        store_alert_history(run, 3)
        run.finish("completed")
        record_run_end(run)
        found.append(run)
    return found


def test_the_newest_run_is_the_one_that_began_last(runs, lake):
    assert [record["run_id"] for record in sql.read_manifests(lake)] == [*IDS]
    assert sql.latest_run(sql.read_manifests(lake)) == (IDS[-1], None)
    assert complete_run(lake, "latest")["run_id"] == IDS[-1]
    assert verify(lake, "latest").runs == [IDS[-1]]
    assert verify(lake, "all").differences == []
    facts = {key: runs[0].read_manifest()[key] for key in ("corpus", "model_digest", "code_version", "environment")}
    assert find_base(lake, facts | {"config": runs[0].read_manifest()["config"]})["base_run"] == IDS[-1]
    assert LakeCache(lake).list_runs() == [*reversed(IDS)]


def test_histories_follow_the_ledger(runs, lake):
    assert [_find_neighbors(run) for run in runs] == [([], True), ([IDS[0]], True), ([*IDS[:2]], False)]
    with sql.connect(lake) as connection:
        lives = sql.read(connection, "SELECT life, runs FROM lives JOIN runs AS r USING (run_id) ORDER BY r.sequence")
        (history,) = sql.rows(connection, "review/alert_history", since="2000-01-01")
    assert [(row["life"], row["runs"]) for row in lives] == [("new", 1), ("still_firing", 2), ("still_firing", 3)]
    assert [entry["run_id"] for entry in history["history"]] == [*IDS]
    plan = {item.run_id: item.pruned for item in plan_pruning(lake, RetentionPolicy(keep=1))}
    assert plan[IDS[-1]] is False


def test_a_decision_holds_in_later_runs_of_the_ledger(runs, lake):
    alert = f"{IDS[1]}-0"
    record = decide(lake, ANN, IDS[1], alert, "benign", "a marker", "review")
    with sql.connect(lake) as connection:
        rows = sql.read(connection, "SELECT run_id, decision FROM triage")
    assert {row["run_id"]: row["decision"] for row in rows} == {IDS[0]: "open", IDS[1]: "benign", IDS[2]: "benign"}
    before, life = ledger.read_records(lake), record.body["life_id"]
    assert [find_decision(before, life, run_id) for run_id in IDS] == [None, record, record]


def test_pages_show_the_newest_run_of_the_ledger(runs, lake):
    site = TestClient(create_app(lake, ReviewSettings()), "http://127.0.0.1:8765", client=("127.0.0.1", 5))
    alerts = site.get("/alerts").text
    assert [f"/runs/{run_id}/alerts/" in alerts for run_id in IDS] == [False, False, True]
    table = site.get("/runs").text
    places = [table.index(f'href="/runs/{run_id}"') for run_id in IDS]
    assert places == sorted(places, reverse=True)
