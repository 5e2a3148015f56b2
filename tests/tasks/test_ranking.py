"""Which finding leads among those of one rule and region, and the order of a run's alerts."""

import numpy as np
import pytest

import sql
from tasks.alert import alert, explain_findings, rank_findings
from tasks.flag import flag
from tasks.settings import AlertsConfig
from tasks.store import corner_boxes

RULES = AlertsConfig(factor=2.0, min_pairs=3, examples=1)
EVEN = [1.0] * 16
CORNER = [9.0] + [1.0] * 15


def finding(name, low, high, *, n=20, kind="word", state="suspected", measured=True, exclusive=False):
    return {
        "slice": name, "slice_kind": kind, "n": n, "low": low, "high": high, "effect": (low + high) / 2,
        "state": state, "measured": measured, "exclusive": exclusive,
    }  # fmt: skip


def rank(*rows):
    return [row["slice"] for row in rank_findings(rows)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (finding("strong", 5, 6, n=5), finding("large", 2, 3, n=50)),  # can be distinguished
        (finding("large", 3, 5, n=39), finding("small", 4, 8, n=20)),  # cannot
        (finding("tested", 3, 5, n=5), finding("untested", 4, 8, n=50, measured=False)),
        (finding("tested", 1, 2, n=5), finding("untested", 4, 8, n=50, measured=False)),
        (finding("site=Oslo", 4, 8, kind="attribute"), finding("oslo", 4, 8)),
        (finding("all pairs", 4, 8, kind="corpus"), finding("patient", 4, 8)),
        (finding("oslo", 4, 8), finding("the", 4, 8)),
        (finding("oslo", 4, 8, n=39), finding("the", 3, 7, n=45)),
        (finding("oslo", 2, 3), finding("the", 7, 8)),  # however strong: it says nothing about a picture
        (finding("the", 2, 3), finding("untested", 7, 8, measured=False)),
        (finding("lung", 4, 8, exclusive=True), finding("all pairs", 3, 7, n=50, kind="corpus")),
        (finding("strong", 5, 6), finding("lung", 2, 3, exclusive=True)),
        (finding("confirmed", 0.1, 0.2, state="confirmed"), finding("suspected", 7, 8)),
        (finding("oslo", 1, 2), finding("map cluster 1", 7, 8, kind="cluster")),
        (finding("the", 4, 8), finding("map cluster 1", 4, 8, kind="cluster")),
    ],
)
def test_the_first_of_two_findings_leads_in_either_order(first, second):
    assert rank(first, second) == rank(second, first) == [first["slice"], second["slice"]]


def test_findings_are_compared_with_the_strongest_and_not_in_a_chain():
    # `weak` overlaps `middle`, and `middle` overlaps `strong`: the largest must not lead through the middle one.
    rows = finding("weak", 1, 3, n=90), finding("middle", 2.5, 6, n=30), finding("strong", 5, 9, n=20)
    assert rank(*rows) == ["middle", "strong", "weak"]


def test_ranking_does_not_depend_on_the_order_of_rows():
    generator = np.random.default_rng(0)
    lows = generator.random(12)
    rows = [finding(f"word {i}", low, low + 0.2, n=int(generator.integers(3, 9))) for i, low in enumerate(lows)]
    expected = rank(*rows)
    for _ in range(20):
        assert rank(*(rows[i] for i in generator.permutation(12))) == expected


@pytest.fixture
def oslo(hand_written_run):
    """A run in which all 9 pairs of one site have a tag. Date and words belong to some or all of them."""
    sites = [{"site": "Oslo", "date": "2026-01" if i < 5 else "2026-02"} for i in range(9)]
    sites += [{"site": "Bergen", "date": f"2026-0{3 + i % 4}"} for i in range(16)]
    captions = ["the chest at oslo"] * 9 + ["the chest"] + ["chest"] * 15
    hand_written_run.add_pairs(captions, sites)
    noise = np.random.default_rng(1).normal(0, 0.4, 9)
    maps = [[9.0 + noise[i]] + [1.0] * 15 for i in range(9)] + [EVEN] * 16
    hand_written_run.add_attributions(maps, (4, 4))
    hand_written_run.add_regions(*corner_boxes(0.25).items())
    return hand_written_run


def test_the_site_leads_and_its_dates_and_words_follow(oslo):
    flag.fn(oslo, RULES, {})
    (leader,) = alert.fn(oslo, RULES)
    assert (leader["slice_kind"], leader["slice"], leader["n"]) == ("attribute", "site=Oslo", 9)
    assert sorted(leader["same_slices"]) == ["at", "oslo"]
    with oslo.connect() as connection:
        followers = sql.read(
            connection, "SELECT slice, rank FROM alerts WHERE explained_by = 'site=Oslo' ORDER BY rank"
        )
    assert {row["slice"] for row in followers} >= {"date=2026-01", "the", "oslo", "at"}
    assert [row["rank"] for row in followers] == list(range(2, 2 + len(followers)))


def test_runs_of_an_early_version_have_ranks_too(oslo, rewrite_rows):
    flag.fn(oslo, RULES, {})
    alert.fn(oslo, RULES)
    with oslo.connect() as connection:
        stored = {
            row["alert_id"]: row["explained_by"] is None for row in sql.read(connection, "FROM alerts ORDER BY rank")
        }
    rewrite_rows(oslo, "alerts", lambda rows: [{**row, "rank": None} for row in rows])
    with oslo.connect() as connection:
        ranked = sql.read(connection, "FROM alerts ORDER BY rank")
    assert [row["rank"] for row in ranked] == list(range(1, len(stored) + 1))
    assert ranked[0]["explained_by"] is None
    with oslo.connect() as connection:
        found = explain_findings(connection, oslo.run_id, RULES)
    assert len(found) == len(stored)


@pytest.fixture
def lungs(hand_written_run):
    """A run of 9 pairs of a lung and 6 of a heart, all with a tag in one corner, and the results of two tests."""
    captions = ["a lung"] * 9 + ["a heart"] * 6
    hand_written_run.add_pairs(captions, [{"side": "left" if i % 5 < 3 else "right"} for i in range(15)])
    hand_written_run.add_attributions([CORNER] * 15, (4, 4))
    hand_written_run.add_regions(*corner_boxes(0.25).items())
    flag.fn(hand_written_run, RULES, {})

    def write(outside_effect, outside_p):
        measured = {"all": (0.12, 0.07, 0.17), "lung": (0.2, 0.16, 0.24), "side=left": (0.13, 0.08, 0.18)}
        names = {"all": ("corpus", "all pairs"), "lung": ("word", "lung"), "side=left": ("attribute", "side=left")}
        rows = [
            {
                "rule": "region_mass", "region": "corner top-left", "slice_kind": names[key][0], "slice": names[key][1],
                "fill": "mean", "n": 9, "units": 9, "margin": 0.5, "losing": 0.0, "floor": 0.05, "effect": effect,
                "low": low, "high": high, "p": 0.0001, "q": 0.001, "passed": True, "confirmed": True,
                "outside_units": 6 if key == "lung" else 0, "outside_effect": outside_effect if key == "lung" else None,
                "outside_p": outside_p if key == "lung" else None,
            }
            for key, (effect, low, high) in measured.items()
        ]  # fmt: skip
        hand_written_run.write_table("confirmations", rows)
        alerts = {row["slice"]: row for row in explain(hand_written_run) if row["region"] == "corner top-left"}
        return {name: row["explained_by"] for name, row in alerts.items() if row["state"] == "confirmed"}

    return write


def explain(run):
    with run.connect() as connection:
        return explain_findings(connection, run.run_id, RULES)


def test_a_slice_outside_of_which_nothing_is_lost_leads_the_whole_corpus(lungs):
    # 9 of 15 pairs lose .2 and the others nothing: that is all that the corpus and the mixed slice lose.
    assert lungs(-0.05, 0.001) == {"lung": None, "all pairs": "lung", "side=left": "lung"}


@pytest.mark.parametrize(("outside_effect", "outside_p"), [(0.1, 0.001), (-0.05, 0.2), (None, None)])
def test_the_corpus_leads_where_others_lose_too_or_nobody_knows(lungs, outside_effect, outside_p):
    assert lungs(outside_effect, outside_p) == {"all pairs": None, "lung": "all pairs", "side=left": "all pairs"}
