"""The life of an alert over runs, rows in and rows out: what is new, worse, resolved, and what only seems so."""

import itertools

import pytest

import sql
from tasks import notify as stage
from tasks.notify import store_alert_history
from tasks.settings import NotifyConfig

MIN_PAIRS = 3
CAPTIONS = ["a consolidation"] * 4 + ["a nodule"] * 4


def found(region="corner", **own):
    return {"region": region, **own}


@pytest.fixture
def night(lake, hand_written_run):
    """night(alerts..., stamps=, clusters=, captions=, status=, **facts): a run of the audit, with its lives stored."""
    numbers = itertools.count(1)

    def run(
        *alerts, stamps=(), clusters=(), captions=CAPTIONS, status="completed", name=None, follow=True, lost=(), **facts
    ):
        name = name or f"202601{next(numbers):02d}T000000-aaaaaa"
        rules = {"rules": {"region_mass": "r", "phrase_mass": "p", "region_contrast": "c"}}
        made = hand_written_run(lake, name).begin(**(rules | facts))
        made.add_pairs(captions)
        made.add_attributions([None if number in lost else [1.0] * 4 for number in range(len(captions))], (2, 2))
        if lost:
            made.write_table("ingest_errors", [{"pair_id": IDS[number], "reason": "shard_failed"} for number in lost])
        named = {alert["region"] for alert in alerts} - {name for name, *_ in stamps}
        made.add_regions(*((region, (0, 0, 0.5, 0.5)) for region in sorted(named)))
        recurrent = [
            {"region": region, "kind": "recurrent", "pair_id": pair_id, "x0": x, "y0": y, "x1": x + 0.1, "y1": y + 0.1}
            for region, (x, y), pair_ids, _ in stamps
            for pair_id in pair_ids
        ]
        made.write_table("regions", recurrent, "recurrent")
        made.write_table(
            "stamps",
            [{"region": r, "channels": 1, "height": 1, "width": len(t), "template": t} for r, _, _, t in stamps],
        )
        made.write_table("clusters", [{"cluster": c, "pair_id": pair_id} for c, ids in clusters for pair_id in ids])
        made.add_alerts(*alerts)
        if follow:
            store_alert_history(made, MIN_PAIRS)
        made.finish(status)
        return made

    return run


def lives(run):
    with sql.connect(run.lake) as connection:
        return sql.read(connection, "FROM lives WHERE run_id = $run ORDER BY region, slice", {"run": run.run_id})


def told(run):
    return {(row["region"], row["slice"]): row["life"] for row in lives(run)}


ALERT = ("corner", "consolidation")


def test_the_first_run_s_alerts_are_new(night):
    first = night(found())
    (row,) = lives(first)
    assert (row["life"], row["announced"], row["runs"], row["previous_run"]) == ("new", True, 1, None)
    assert row["first_run"] == row["last_run"] == first.run_id


def test_an_alert_that_goes_on_is_still_firing_under_the_same_id(night):
    first, second = night(found()), night(found(effect=4.0))
    (was,), (now,) = lives(first), lives(second)
    assert now["life"] == "still_firing"
    assert now["life_id"] == was["life_id"]
    assert (now["alert_id"], was["alert_id"]) == (f"{second.run_id}-0", f"{first.run_id}-0")
    assert (now["effect"], now["effect_before"], now["runs"]) == (4.0, 3.0, 2)
    assert (now["first_run"], now["last_run"], now["previous_run"]) == (first.run_id, second.run_id, first.run_id)


@pytest.mark.parametrize(
    ("before", "after", "life"),
    [
        ({}, {"state": "confirmed", "severity": "low"}, "worse"),
        ({"state": "confirmed", "severity": "low"}, {"state": "confirmed", "severity": "medium"}, "worse"),
        ({"state": "confirmed", "severity": "high"}, {"state": "confirmed", "severity": "medium"}, "still_firing"),
        ({"state": "confirmed", "severity": "high"}, {}, "still_firing"),
        ({"interval": (0.1, 0.2, 0.3)}, {"interval": (0.31, 0.4, 0.5)}, "worse"),
        ({"interval": (0.1, 0.2, 0.3)}, {"interval": (0.29, 0.4, 0.5)}, "still_firing"),
        ({"effect": 3.0}, {"effect": 9.0}, "still_firing"),  # mass alone has no interval
    ],
)
def test_what_is_worse(night, before, after, life):
    night(found(**before))
    second = night(found(**after))
    assert told(second) == {ALERT: life}
    assert bool(lives(second)[0]["why"]) == (life == "worse")


def test_creeping_adds_up_and_flapping_is_told_once(night):
    low, higher, high = (0.1, 0.2, 0.3), (0.25, 0.3, 0.35), (0.31, 0.4, 0.5)
    nights = [night(found(interval=interval)) for interval in (low, higher, high, low, high)]
    assert [told(run)[ALERT] for run in nights] == ["new", "still_firing", "worse", "still_firing", "still_firing"]


def test_an_alert_that_is_gone_is_resolved_once_and_new_if_it_comes_back(night):
    first, gone, quiet, back = night(found()), night(), night(), night(found())
    (row,) = lives(gone)
    assert (row["life"], row["alert_id"], row["effect"], row["last_run"]) == ("resolved", None, 3.0, first.run_id)
    assert lives(quiet) == []
    (again,) = lives(back)
    assert (again["life"], again["first_run"], again["life_id"]) == ("new", back.run_id, row["life_id"])


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"config_digest": "other"}, "the settings are not those that raised it"),
        ({"rules": {"region_mass": "another text"}}, "the rule region_mass is not the one that raised it"),
        ({"rules": {}}, "the rule region_mass is not the one that raised it"),
        ({"captions": ["a nodule"] * 6 + ["a consolidation"] * 2}, "its slice has 2 pairs, fewer than min_pairs = 3"),
    ],
)
def test_a_run_that_could_not_have_seen_it_does_not_resolve_it(night, facts, why):
    night(found())
    blind = night(**facts)
    (row,) = lives(blind)
    assert (row["life"], row["why"]) == ("not_seen", why)
    seeing = night()
    assert told(seeing) == {ALERT: "resolved"}  # held against the run that raised it, not against the blind one
    night(found())
    night(**facts)
    assert told(night(found())) == {ALERT: "still_firing"}


def test_pairs_that_were_not_attributed_cannot_show_it(night, changed_rows):
    night(found())
    second = night(follow=False)
    changed_rows(second, "attributions", lambda rows: rows[2:])
    store_alert_history(second, MIN_PAIRS)
    assert told(second) == {ALERT: "not_seen"}


def test_why_it_is_resolved(night):
    night(found())
    assert lives(night())[0]["why"] == "its region is not there any more"
    night(found())
    second = night(follow=False)
    second.add_shares("corner", [0.1] * 8)
    store_alert_history(second, MIN_PAIRS)
    assert lives(second)[0]["why"] == "its rule no longer raises it"


def test_an_alert_that_another_rule_raises_now_is_not_resolved(night):
    night(found())
    second = night(found(rule="region_contrast"))
    assert sorted((row["rule"], row["life"]) for row in lives(second)) == [
        ("region_contrast", "new"),
        ("region_mass", "not_seen"),
    ]


@pytest.mark.parametrize("facts", [{"corpus": "another"}, {"model": "another"}])
def test_other_audits_of_the_lake_have_lives_of_their_own(night, facts):
    first = night(found())
    other = night(found(), **facts)
    assert told(other) == {ALERT: "new"}
    assert lives(other)[0]["life_id"] != lives(first)[0]["life_id"]
    assert told(night(found())) == {ALERT: "still_firing"}


def test_a_model_that_was_trained_again_is_the_same_audit(night):
    night(found())
    assert told(night(found(), model_digest="retrained", corpus_digest="grown")) == {ALERT: "still_firing"}


@pytest.mark.parametrize("status", ["failed", "stopped", "running", "interrupted"])
def test_a_run_that_did_not_complete_says_nothing_about_alerts(night, status):
    night(found())
    night(status=status, follow=False)
    assert told(night(found())) == {ALERT: "still_firing"}


def test_a_run_with_errors_counts(night):
    night(found(), status="completed_with_errors")
    assert told(night()) == {ALERT: "resolved"}


def test_alerts_that_change_places_are_no_news(night):
    """Which of two nested slices leads can turn with little; the reader was told about the pair of them."""
    night(found(), found(slice="a", explained_by="consolidation"))
    turned = night(found(explained_by="a"), found(slice="a"))
    assert told(turned) == {ALERT: "still_firing", ("corner", "a"): "still_firing"}
    again = night(found(slice="a"))
    assert told(again) == {ALERT: "resolved", ("corner", "a"): "new"}  # else it would never have been told


def test_a_follower_is_new_when_it_stands_on_its_own(night):
    night(found(), found(slice="a", explained_by="consolidation"))
    alone = night(found(slice="a"))
    assert told(alone) == {ALERT: "resolved", ("corner", "a"): "new"}
    assert [row["announced"] for row in lives(alone)] == [True, True]


def test_a_follower_s_end_is_no_news(night):
    night(found(), found(slice="a", explained_by="consolidation"))
    second = night(found())
    assert {row["slice"]: (row["life"], row["announced"]) for row in lives(second)} == {
        "consolidation": ("still_firing", True),
        "a": ("resolved", False),
    }


IDS = [f"pair-{number:04d}" for number in range(8)]
LEFT, RIGHT = (0.1, 0.1), (0.8, 0.1)


def stamp(number, place, ids=tuple(IDS[:4]), template=(1.0, 0.0, 0.0)):
    return f"stamp {number}", place, ids, list(template)


@pytest.mark.parametrize(
    ("second", "life"),
    [
        (stamp(2, LEFT, template=(0.0, 1.0)), "still_firing"),  # same place in the same pairs, read otherwise
        (stamp(2, RIGHT, IDS[4:8]), "still_firing"),  # another place, same template
        (stamp(2, LEFT, IDS[:3], (0.0, 1.0)), "still_firing"),  # three of four pairs
        (stamp(2, LEFT, IDS[2:8], (0.0, 1.0)), "new"),  # two of eight
        (stamp(2, RIGHT, template=(0.0, 1.0)), "new"),
    ],
)
def test_a_stamp_is_known_again_by_its_place_or_its_template(night, second, life):
    first = night(found("stamp 1"), stamps=[stamp(1, LEFT)])
    other = stamp(1, (0.5, 0.5), template=(0.0, 0.0, 0.0, 1.0))
    now = {row["region"]: row for row in lives(night(found("stamp 2"), stamps=[other, second]))}
    assert now["stamp 2"]["life"] == life
    assert (now["stamp 2"]["life_id"] == lives(first)[0]["life_id"]) == (life == "still_firing")
    assert set(now) == ({"stamp 2"} if life == "still_firing" else {"stamp 1", "stamp 2"})


def test_a_stamp_keeps_its_identity_over_many_runs_and_a_blind_one(night):
    runs = [
        night(found("stamp 1"), stamps=[stamp(1, LEFT)]),
        night(found("stamp 2"), stamps=[stamp(2, LEFT)]),
        night(config_digest="other"),
        night(found("stamp 3"), stamps=[stamp(3, LEFT)]),
    ]
    assert [[row["life"] for row in lives(run)] for run in runs] == [
        ["new"],
        ["still_firing"],
        ["not_seen"],
        ["still_firing"],
    ]
    assert {row["life_id"] for run in runs for row in lives(run)} == {lives(runs[0])[0]["life_id"]}
    (last,) = lives(runs[-1])
    assert (last["region"], last["lasting_region"]) == ("stamp 3", f"stamp 1 of {runs[0].run_id}")


def test_a_number_alone_does_not_make_a_stamp_the_same(night):
    night(found("stamp 1"), stamps=[stamp(1, LEFT)])
    second = night(found("stamp 1"), stamps=[stamp(1, RIGHT, template=(0.0, 1.0))])
    assert sorted((row["life"], row["why"]) for row in lives(second)) == [
        ("new", None),
        ("resolved", "its region is not there any more"),
    ]


@pytest.mark.parametrize(("members", "life"), [(IDS[:3], "still_firing"), (IDS[2:8], "new")])
def test_a_cluster_is_known_again_by_its_members(night, members, life):
    of = {"slice_kind": "cluster"}
    night(found(slice="map cluster 1", **of), clusters=[("map cluster 1", IDS[:4])])
    second = night(found(slice="map cluster 2", **of), clusters=[("map cluster 2", members)])
    assert told(second)["corner", "map cluster 2"] == life


def test_a_lake_of_a_version_that_followed_nothing_is_taken_as_it_is(night):
    old = night(found(), follow=False)
    assert [(row["life"], row["announced"]) for row in lives(old)] == [(None, True)]
    second = night(found(state="confirmed", severity="low"))
    assert told(second) == {ALERT: "worse"}
    assert lives(second)[0]["life_id"] == lives(old)[0]["life_id"]


def test_a_run_that_ends_after_a_later_one_is_not_told_about(night, monkeypatch):
    monkeypatch.setattr(stage, "emit_event", lambda *_, **__: pytest.fail("an event was sent"))
    first = night(found())
    late = night(found("frame"), follow=False, status="running", name="20260102T000000-bbbbbb")
    night(found("frame"), name="20260103T000000-cccccc")
    assert stage.notify_alerts(late, NotifyConfig(tell=("new",)), MIN_PAIRS) == 0
    assert {row["previous_run"] for row in lives(late)} == {first.run_id}


def test_a_re_flagged_run_stands_beside_the_series(night, monkeypatch):
    first, second = night(found()), night(found("frame"))
    again = night(found("mark"), reflags=second.run_id)
    twice = night(found("mark"), reflags=again.run_id)
    assert [lives(run)[0]["previous_run"] for run in (again, twice)] == [second.run_id] * 2
    third = night(found("frame"))
    assert told(third) == {("frame", "consolidation"): "still_firing"}  # neither missed in between nor is `mark` gone
    monkeypatch.setattr(stage, "emit_event", lambda *_, **__: pytest.fail("an event was sent"))
    old = night(found("mark"), reflags=first.run_id)
    assert stage.notify_alerts(old, NotifyConfig(tell=("new", "resolved")), MIN_PAIRS) == 0
    assert lives(old)[0]["previous_run"] == first.run_id
    newest = night(found("mark"), reflags=third.run_id)
    with pytest.raises(pytest.fail.Exception, match="an event was sent"):
        stage.notify_alerts(newest, NotifyConfig(tell=("new", "resolved")), MIN_PAIRS)


@pytest.mark.parametrize(
    ("alert", "facts", "why"),
    [
        ({}, {"failed_rules": ["region_mass"]}, "the rule region_mass failed"),
        ({}, {"failed_rules": ["phrase_mass"]}, None),
        (
            {"region": "burnt-in: text"},
            {"failed_detectors": ["burnt-in"]},
            "the detector burnt-in failed on some pairs",
        ),
        ({"region": "burnt-in: text"}, {"failed_detectors": ["other"]}, None),
        ({}, {"lost": [3]}, "pairs that may be of its slice were set aside"),
        ({}, {"lost": [7]}, None),
        ({"slice_kind": "phrase"}, {"lost": [7]}, "pairs that may be of its slice were set aside"),
    ],
)
def test_a_run_that_lost_what_could_have_seen_it_does_not_resolve_it(night, alert, facts, why):
    rules = {"rules": {"region_mass": "r"}}
    night(found(**alert), **rules)
    (row,) = lives(night(**rules, **facts))
    if why:
        assert (row["life"], row["why"]) == ("not_seen", why)
    else:
        assert row["life"] == "resolved"


def test_earlier_runs_that_cannot_be_read_make_every_alert_new(night):
    first, second = night(found()), night(found(), follow=False)
    first.path("alerts").unlink()
    rows, overtaken = store_alert_history(second, MIN_PAIRS)
    assert ([row["life"] for row in rows], overtaken) == (["new"], False)


def test_a_lake_in_object_storage_is_followed_alike(away, hand_written_run):
    rows = []
    for name in ("20260101T000000-aaaaaa", "20260102T000000-aaaaaa"):
        run = hand_written_run(away, name).begin(rules={"region_mass": "r"})
        run.add_pairs(CAPTIONS)
        run.add_attributions([[1.0] * 4] * 8, (2, 2))
        run.add_alerts(found())
        rows += store_alert_history(run, MIN_PAIRS)[0]
        run.finish("completed")
    assert [row["life"] for row in rows] == ["new", "still_firing"]
    assert len({row["life_id"] for row in rows}) == 1
