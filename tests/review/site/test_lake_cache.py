"""What the site caches of a lake, and when the cache is invalidated."""

from starlette.testclient import TestClient

from review.evidence.decisions import Reviewer, decide
from review.site.app import create_app
from review.site.lake_cache import LakeCache
from stores import ledger
from tasks.lake.journal import record_run_end


def test_decision_in_object_storage_is_shown_at_once(remote_folder):
    """Runs are listed again after some seconds, but the next page after a decision must show it."""
    lake, values = LakeCache(remote_folder), iter(range(9))

    def read_cached():
        return lake.cache_for_lake("what", lambda: next(values) + 1)

    assert [read_cached(), read_cached()] == [1, 1]
    ledger.append(remote_folder, "report", {"run_id": "r"})
    assert [read_cached(), read_cached()] == [2, 2]
    ledger.append(remote_folder, "report", {"run_id": "r"})
    assert read_cached() == 3


def test_record_is_shown_although_its_writer_was_killed_before_writing_head(tmp_path):
    ledger.append(tmp_path, "report", {"run_id": "r"})
    head = tmp_path / ledger.FOLDER / ledger.HEAD
    old_head, lake = head.read_bytes(), LakeCache(tmp_path)
    before = lake.get_lake_version()
    ledger.append(tmp_path, "report", {"run_id": "r"})
    head.write_bytes(old_head)
    assert lake.get_lake_version() != before


def test_damaged_ledger_is_reported_and_its_decisions_are_hidden(lake, make_pair):
    run_id = lake.write(lake.begin(), [make_pair(0, "dense shadow")], slice="dense").run_id
    alert = "alert0000000"
    decide(lake.path, Reviewer("Ada", "reader", "declared"), run_id, alert, "benign", "A habit.", "review")
    url = f"/runs/{run_id}/alerts/{alert}"
    with TestClient(create_app(lake.path), "http://127.0.0.1:8765") as client:
        assert "A habit." in client.get(url).text
    record = lake.path / "ledger" / "00000001.json"
    record.write_bytes(record.read_bytes().replace(b"benign", b"waived"))
    with TestClient(create_app(lake.path), "http://127.0.0.1:8765") as client:
        for page in (client.get("/"), client.get(url)):
            assert page.status_code == 200
            assert "A habit." not in page.text
        assert "HEAD" in client.get("/").text


def test_nothing_of_a_run_stays_in_memory_once_its_manifest_was_replaced(lake, make_pair):
    run = lake.write(lake.begin(), [make_pair(0, "dense shadow")], slice="dense")
    cache = LakeCache(lake.path)
    cache.query_run(run.run_id, "review/checks")
    cache.get_or_compute(cache.pictures, "picture", lambda: "pixels")
    cache.get_lake_version()
    assert (len(cache.pictures), len(cache._results), len(cache._connections)) == (1, 1, 1)
    record_run_end(run)
    run.rewrite("erased", "DSR-1")
    cache.get_lake_version()
    assert (len(cache.pictures), len(cache._results), len(cache._connections)) == (0, 0, 0)
