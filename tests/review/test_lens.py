"""What the page keeps of a lake, and when it looks again."""

from review.lens import Lens
from stores import ledger


def test_a_decision_in_a_store_is_seen_at_once(away):
    """Its runs are listed every few seconds, but whoever has decided looks for the decision on the very next page."""
    lens, answers = Lens(away), iter(range(9))

    def ask():
        return lens.remember_whole("what", lambda: next(answers) + 1)

    assert [ask(), ask()] == [1, 1]
    ledger.append(away, "report", {"run_id": "r"})
    assert [ask(), ask()] == [2, 2]
    ledger.append(away, "report", {"run_id": "r"})
    assert ask() == 3
