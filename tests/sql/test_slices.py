"""The macro slice_members returns the pairs that the view pair_slices has."""

import pytest

import sql

CAPTIONS = [
    *("a Shadow on the left", "shadows, no shadow", "sha\u00addow", "SHADOW\u200d", "ombre é\u0301 gauche"),
    *("no word here: 12 %", "", "a=b shadow's end"),
]


@pytest.fixture
def connection(hand_written_run):
    hand_written_run.add_pairs(CAPTIONS, [{"site": "a", "x=y": "shadow"}] * 3 + [{"site": "b"}] * 5)
    hand_written_run.write_table("collocations", [{"pair_id": "p", "collocation": "the left"}])
    hand_written_run.write_table("clusters", [{"pair_id": "p", "cluster": "map cluster 1"}])
    with hand_written_run.connect() as found:
        yield found


def test_every_slice_has_the_pairs_of_the_view(connection):
    slices = sql.read(
        connection, "SELECT run_id, slice_kind, slice, list(pair_id) AS pairs FROM pair_slices GROUP BY ALL"
    )
    assert {row["slice_kind"] for row in slices} == {"corpus", "word", "phrase", "attribute", "cluster"}
    assert any(row["slice"] == "shadow" and len(row["pairs"]) == 5 for row in slices)
    for row in slices:
        members = "SELECT pair_id FROM slice_members($run, $kind, $name)"
        chosen = {"run": row["run_id"], "kind": row["slice_kind"], "name": row["slice"]}
        pair_ids = [each["pair_id"] for each in sql.read(connection, members, chosen)]
        assert sorted(pair_ids) == sorted(row["pairs"]), row["slice"]


@pytest.mark.parametrize("name", ["shado", "x=y=shado", "nothing", "", None])
def test_an_unknown_slice_has_no_pairs(connection, name):
    for kind in ("corpus", "word", "phrase", "attribute", "cluster", None):
        query = "SELECT pair_id FROM slice_members((SELECT any_value(run_id) FROM pairs), $kind, $name)"
        assert sql.read(connection, query, {"kind": kind, "name": name}) == []
