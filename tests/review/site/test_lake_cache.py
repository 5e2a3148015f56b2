"""What the page keeps of a lake, and when it looks again."""

from starlette.testclient import TestClient

from review.evidence.decisions import Reviewer, decide
from review.site.app import create_app
from review.site.lake_cache import LakeCache
from stores import ledger


def test_a_decision_in_a_store_is_seen_at_once(remote_folder):
    """Its runs are listed every few seconds, but whoever has decided looks for the decision on the very next page."""
    lake, answers = LakeCache(remote_folder), iter(range(9))

    def ask():
        return lake.cache_for_lake("what", lambda: next(answers) + 1)

    assert [ask(), ask()] == [1, 1]
    ledger.append(remote_folder, "report", {"run_id": "r"})
    assert [ask(), ask()] == [2, 2]
    ledger.append(remote_folder, "report", {"run_id": "r"})
    assert ask() == 3


def test_a_damaged_ledger_is_named_and_its_decisions_are_not_shown(lake, make_pair):
    run_id = lake.write(lake.begin(), [make_pair(0, "dense shadow")], slice="dense").run_id
    alert = "alert0000000"
    decide(lake.path, Reviewer("Ada", "reader", "declared"), run_id, alert, "benign", "A habit.", "review")
    url = f"/runs/{run_id}/alerts/{alert}"
    with TestClient(create_app(lake.path), "http://127.0.0.1:8765") as client:
        assert "A habit." in client.get(url).text
    record = lake.path / "ledger" / "00000001.json"
    record.write_bytes(record.read_bytes().replace(b"A habit.", b"A fault."))
    with TestClient(create_app(lake.path), "http://127.0.0.1:8765") as client:
        for page in (client.get("/"), client.get(url)):
            assert page.status_code == 200
            assert "A fault." not in page.text
        assert "HEAD" in client.get("/").text
