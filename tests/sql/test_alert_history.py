"""The alert history of runs: which alerts are new, worse or resolved, and which only seem to be.

Building a run is slow, so each test looks at several alerts, which have different regions, in the same few runs.
"""

import itertools

import pytest

import sql
from review.evidence.decisions import Reviewer, name_overlay
from tasks import notify as stage
from tasks.notify import store_alert_history
from tasks.settings import NotifyConfig

MIN_PAIRS = 3
OTHER_SETTINGS = {"config_digest": "other", "config": {"discover": {"enabled": False}}}
CAPTIONS = ["a consolidation"] * 4 + ["a nodule"] * 4
IDS = [f"pair-{number:04d}" for number in range(8)]
RULES = {"region_mass": "r", "phrase_mass": "p", "region_contrast": "c"}


def alert(region="corner", **columns):
    return {"region": region, **columns}


def overlay(number, place, pair_ids=tuple(IDS[:4]), template=(1.0, 0.0, 0.0)):
    return f"stamp {number}", place, pair_ids, list(template)


def start_audit(folder, run_class):
    """Return a function that adds a run to an audit, with its alert history stored."""
    numbers = itertools.count(1)

    def add_run(
        *alerts, overlays=(), clusters=(), captions=CAPTIONS, shares=(), failed=(), status="completed", name=None,
        store=True, **facts,
    ):  # fmt: skip
        run = run_class(folder, name or f"202601{next(numbers):02d}T000000-aaaaaa").begin(**({"rules": RULES} | facts))
        run.add_pairs(captions)
        run.add_attributions([None if number in failed else [1.0] * 4 for number in range(len(captions))], (2, 2))
        if failed:
            run.write_table("ingest_errors", [{"pair_id": IDS[n], "reason": "shard_failed"} for n in failed])
        regions = {row["region"] for row in alerts} - {region for region, *_ in overlays}
        run.add_regions(*((region, (0, 0, 0.5, 0.5)) for region in sorted(regions)))
        if shares:
            run.add_shares(*shares)
        if overlays:
            boxes = [
                {
                    "region": region, "kind": "recurrent", "pair_id": pair_id,
                    "x0": x, "y0": y, "x1": x + 0.1, "y1": y + 0.1,
                }
                for region, (x, y), pair_ids, _ in overlays
                for pair_id in pair_ids
            ]  # fmt: skip
            run.write_table("regions", boxes, "recurrent")
            templates = [
                {"region": r, "channels": 1, "height": 1, "width": len(t), "template": t} for r, _, _, t in overlays
            ]
            run.write_table("stamps", templates)
        if clusters:
            run.write_table("clusters", [{"cluster": c, "pair_id": pair_id} for c, ids in clusters for pair_id in ids])
        run.add_alerts(*alerts)
        if store:
            store_alert_history(run, MIN_PAIRS)
        run.finish(status)
        return run

    return add_run


@pytest.fixture
def add_run(lake, run_class):
    """add_run(alerts..., overlays=, clusters=, captions=, status=, **facts): the next run of the audit."""
    return start_audit(lake, run_class)


def read_history(run, region=None):
    with sql.connect(run.lake, run.run_id) as connection:
        text = "FROM lives WHERE run_id = $run AND coalesce(region = $region, true) ORDER BY region, slice"
        return sql.read(connection, text, {"run": run.run_id, "region": region})


def statuses(run, region=None):
    return {(row["region"], row["slice"]): row["life"] for row in read_history(run, region)}


ALERT = ("corner", "consolidation")
CONFIRMED = {severity: {"state": "confirmed", "severity": severity} for severity in ("low", "medium", "high")}
LOW, HIGHER, HIGH = (
    (0.1, 0.2, 0.3),
    (0.25, 0.3, 0.35),
    (0.35, 0.45, 0.55),
)  # chance explains 0.14 to 0.2
CHANGES = {
    "confirmed": ({}, CONFIRMED["low"], "worse"),
    "higher severity": (CONFIRMED["low"], CONFIRMED["medium"], "worse"),
    "lower severity": (CONFIRMED["high"], CONFIRMED["medium"], "still_firing"),
    "not confirmed": (CONFIRMED["high"], {}, "still_firing"),
    "higher loss": ({"interval": LOW}, {"interval": HIGH}, "worse"),
    "interval above, but not their difference": ({"interval": LOW}, {"interval": (0.305, 0.34, 0.415)}, "still_firing"),
    "higher severity, but within the interval": (
        CONFIRMED["low"] | {"interval": (0.2, 0.24, 0.28)}, CONFIRMED["medium"] | {"interval": (0.22, 0.26, 0.3)},
        "still_firing",
    ),
    "higher severity, beyond the interval": (
        CONFIRMED["low"] | {"interval": (0.18, 0.2, 0.22)}, CONFIRMED["medium"] | {"interval": (0.3, 0.32, 0.34)},
        "worse",
    ),
    "confirmed, but hardly": ({}, CONFIRMED["low"] | {"interval": (0.01, 0.1, 0.19)}, "still_firing"),
    "mass has no interval": ({"effect": 3.0}, {"effect": 9.0}, "still_firing"),
}  # fmt: skip


@pytest.fixture(scope="module")
def series(tmp_path_factory, run_class):
    """Five runs of one audit, in which each region has its own sequence of alerts."""
    add_run = start_audit(tmp_path_factory.mktemp("series"), run_class)
    follower = {"slice": "a", "explained_by": "consolidation"}
    first = [
        alert(), *(alert(region, **before) for region, (before, _, _) in CHANGES.items()),
        alert("slow growth", interval=LOW), alert("comes back"), alert("kept"), alert("another rule"),
        *(row for region in ("places", "independent", "end") for row in (alert(region), alert(region, **follower))),
    ]  # fmt: skip
    second = [
        alert(effect=4.0), *(alert(region, **after) for region, (_, after, _) in CHANGES.items()),
        alert("slow growth", interval=HIGHER), alert("another rule", rule="region_contrast"),
        alert("places", explained_by="a"), alert("places", slice="a"), alert("independent", slice="a"), alert("end"),
    ]  # fmt: skip
    return [
        add_run(*first),
        add_run(*second, shares=("kept", [0.1] * 8)),
        add_run(alert("slow growth", interval=HIGH), alert("places", slice="a")),
        add_run(alert("slow growth", interval=LOW), alert("comes back")),
        add_run(alert("slow growth", interval=HIGH)),
    ]


def test_an_alert_keeps_its_identity_if_another_kind_of_reliance_is_proposed(add_run):
    rules = {"rules": RULES | {"region_sufficiency": "s"}}
    sufficient = alert(rule="region_sufficiency", state="confirmed", severity="high", reliance=["sufficient"])
    both = alert(state="confirmed", severity="high", reliance=["needed", "sufficient"])
    lowers = alert("mark", rule="region_gain", direction="lowers")
    first = add_run(sufficient, lowers, **rules)
    second = add_run(both, alert("mark", rule="region_sufficiency", reliance=["sufficient"]), **rules)
    third = add_run(sufficient, **rules)
    rows = [read_history(run, "corner") for run in (first, second, third)]
    assert [[row["life"] for row in of_run] for of_run in rows] == [["new"], ["still_firing"], ["still_firing"]]
    assert len({row["life_id"] for of_run in rows for row in of_run}) == 1
    assert [row["reliance"] for (row,) in rows] == [["sufficient"], ["needed", "sufficient"], ["sufficient"]]
    # A mark that lowers the score of a slice is another claim.
    assert {row["life"] for row in read_history(second, "mark")} == {"new", "not_seen"}


def test_alerts_of_the_first_run_are_new(series):
    (row,) = read_history(series[0], "corner")
    assert (row["life"], row["announced"], row["runs"], row["previous_run"]) == ("new", True, 1, None)
    assert row["first_run"] == row["last_run"] == series[0].run_id


def test_an_alert_that_is_raised_again_is_still_firing_under_the_same_id(series):
    (before,), (row,) = read_history(series[0], "corner"), read_history(series[1], "corner")
    assert row["life"] == "still_firing"
    assert row["life_id"] == before["life_id"]
    assert (row["alert_id"], before["alert_id"]) == (f"{series[1].run_id}-0", f"{series[0].run_id}-0")
    assert (row["effect"], row["effect_before"], row["runs"]) == (4.0, 3.0, 2)
    assert (row["first_run"], row["last_run"], row["previous_run"]) == (
        series[0].run_id, series[1].run_id, series[0].run_id,
    )  # fmt: skip


def test_alert_is_worse_if_its_effect_or_severity_grows(series):
    rows = {row["region"]: row for row in read_history(series[1]) if row["region"] in CHANGES}
    assert {region: row["life"] for region, row in rows.items()} == {
        region: status for region, (_, _, status) in CHANGES.items()
    }
    assert {region for region, row in rows.items() if row["why"]} == {
        region for region, (_, _, status) in CHANGES.items() if status == "worse"
    }


def test_slow_growth_adds_up_and_fluctuation_is_notified_once(series):
    changes = [statuses(run, "slow growth")["slow growth", "consolidation"] for run in series]
    assert changes == ["new", "still_firing", "worse", "still_firing", "still_firing"]


def test_an_alert_that_ends_is_resolved_once_and_new_if_it_comes_back(series):
    first, ended, later, back, _ = (read_history(run, "comes back") for run in series)
    (row,) = ended
    assert (row["life"], row["alert_id"], row["effect"], row["last_run"]) == ("resolved", None, 3.0, series[0].run_id)
    assert later == []
    assert (back[0]["life"], back[0]["first_run"]) == ("new", series[3].run_id)
    assert back[0]["life_id"] == row["life_id"] == first[0]["life_id"]


def test_resolved_alert_has_a_reason(series):
    assert read_history(series[1], "comes back")[0]["why"] == "its region no longer exists"
    assert read_history(series[1], "kept")[0]["why"] == "its rule no longer raises it"


def test_an_alert_that_another_rule_raises_now_is_not_resolved(series):
    assert sorted((row["rule"], row["life"]) for row in read_history(series[1], "another rule")) == [
        ("region_contrast", "new"),
        ("region_mass", "not_seen"),
    ]


def test_alerts_that_explain_each_other_in_turn_are_not_notified(series):
    """Small changes can turn which of two nested slices explains the other; both have been notified together."""
    places, nested = ("places", "consolidation"), ("places", "a")
    assert statuses(series[1], "places") == {places: "still_firing", nested: "still_firing"}
    assert statuses(series[2], "places") == {places: "resolved", nested: "new"}  # otherwise it would never be notified


def test_an_explained_alert_is_new_when_it_becomes_independent(series):
    assert [(row["slice"], row["life"], row["announced"]) for row in read_history(series[1], "independent")] == [
        ("a", "new", True),
        ("consolidation", "resolved", True),
    ]


def test_the_end_of_an_explained_alert_is_not_notified(series):
    assert [(row["slice"], row["life"], row["announced"]) for row in read_history(series[1], "end")] == [
        ("a", "resolved", False),
        ("consolidation", "still_firing", True),
    ]


def test_run_that_could_not_raise_an_alert_does_not_resolve_it(add_run):
    add_run(alert())
    few = "its slice has 2 independent pairs, fewer than min_pairs = 3"
    cases = [
        (OTHER_SETTINGS, "the settings are not those of the run that raised it"),
        ({"rules": {"region_mass": "another text"}}, "the text of the rule region_mass has changed"),
        ({"rules": {}}, "the text of the rule region_mass has changed"),
        ({"captions": ["a nodule"] * 6 + ["a consolidation"] * 2}, few),
    ]
    for facts, why in cases:
        (row,) = read_history(add_run(**facts))
        assert (row["life"], row["why"]) == ("not_seen", why)
    assert statuses(add_run(alert())) == {ALERT: "still_firing"}
    assert statuses(add_run(**OTHER_SETTINGS)) == {ALERT: "not_seen"}
    assert statuses(add_run()) == {ALERT: "resolved"}  # compared with the run that raised it, not with the last one


def test_failed_rules_and_detectors_do_not_resolve_alerts(add_run):
    mass, phrase, detector = alert("a mass"), alert("b phrase", slice_kind="phrase"), alert("burnt-in: text")

    def outcomes(run):
        return [(row["life"], row["why"]) for row in read_history(run)]

    failed_pairs = ("not_seen", "pairs that may be in its slice are in a failed shard")
    add_run(mass, phrase, detector)
    rule_failed = ("not_seen", "the rule region_mass failed")
    assert outcomes(add_run(failed_rules=["region_mass"])) == [rule_failed] * 3
    assert outcomes(add_run(mass, phrase, failed_detectors=["burnt-in"]))[2] == (
        "not_seen", "the detector burnt-in failed on some pairs",
    )  # fmt: skip
    assert outcomes(add_run(phrase, failed=[3]))[::2] == [failed_pairs] * 2
    other_failures = {"failed_rules": ["phrase_mass"], "failed_detectors": ["other"], "failed": [7]}
    last = outcomes(add_run(**other_failures))
    assert [status for status, _ in last] == ["resolved", "not_seen", "resolved"]
    assert last[1] == failed_pairs


def test_alert_whose_pairs_were_not_attributed_is_not_resolved(add_run, rewrite_rows):
    add_run(alert())
    second = add_run(store=False)
    rewrite_rows(second, "attributions", lambda rows: rows[2:])
    store_alert_history(second, MIN_PAIRS)
    assert statuses(second) == {ALERT: "not_seen"}


SHARES = [0.3, 0.28, 0.32, 0.3] * 2


def outcome(run):
    (row,) = read_history(run)
    return row["life"], row["why"]


def test_an_open_alert_resolves_only_if_its_share_has_fallen(add_run):
    add_run(alert(), shares=("corner", SHARES))
    unchanged = (
        "not_seen",
        "its rule did not raise it, but what it rests on has not fallen by more than chance explains",
    )
    assert outcome(add_run(shares=("corner", [0.28, 0.27, 0.31, 0.28] * 2))) == unchanged
    assert outcome(add_run(shares=("corner", SHARES))) == unchanged
    assert outcome(add_run(alert(), shares=("corner", SHARES))) == ("still_firing", None)
    assert outcome(add_run(shares=("corner", [0.1, 0.12, 0.1, 0.09] * 2))) == (
        "resolved",
        "its rule no longer raises it",
    )


def test_an_alert_whose_region_was_not_found_is_resolved_by_the_third_run_in_a_row(add_run):
    add_run(alert(), shares=("corner", SHARES))
    gone = "its region no longer exists"
    waiting = [("not_seen", f"{gone} (run {number} of 3, after which it is resolved)") for number in (1, 2)]
    assert [outcome(add_run()) for _ in range(2)] == waiting
    assert outcome(add_run(shares=("corner", SHARES)))[0] == "not_seen"  # found: counted from the start
    assert [outcome(add_run()) for _ in range(2)] == waiting
    assert outcome(add_run()) == ("resolved", f"{gone}, for the third run in a row")


def test_a_run_that_measured_the_same_again_is_no_comparison(add_run):
    rows = [
        read_history(add_run(alert(interval=interval)))[0]
        for interval in (LOW, LOW, LOW, (0.11, 0.2, 0.3), (0.11, 0.2, 0.3), HIGH)
    ]
    assert [row["comparisons"] for row in rows] == [0, 1, 1, 2, 2, 0]
    assert rows[-1]["life"] == "worse"  # at comparison 3
    assert rows[-1]["told_estimates"] == rows[-1]["estimates"] != rows[-2]["told_estimates"] == rows[0]["estimates"]


def test_all_fills_must_have_risen(add_run, rewrite_rows):
    def add(low, blur):
        run = add_run(alert(interval=low), store=False)
        rewrite_rows(
            run,
            "confirmations",
            lambda rows: [*rows, rows[0] | {"fill": "blur"} | dict(zip(("low", "effect", "high"), blur, strict=True))],
        )
        store_alert_history(run, MIN_PAIRS)
        return outcome(run)[0]

    assert [add(LOW, LOW), add(HIGH, LOW), add(LOW, HIGH), add(HIGH, HIGH)] == [
        "new",
        "still_firing",
        "still_firing",
        "worse",
    ]


def test_runs_of_a_release_without_estimates_are_compared_by_the_interval(add_run, rewrite_rows):
    first = add_run(alert("a", interval=LOW), alert("b", interval=LOW), alert("c"))
    dropped = dict.fromkeys(
        ("estimates", "told_estimates", "comparisons", "misses", "severity_high", "told_severity_high")
    )
    rewrite_rows(first, "lives", lambda rows: [row | dropped for row in rows])
    second = add_run(alert("a", interval=HIGH), alert("b", interval=HIGHER))
    assert {row["region"]: row["life"] for row in read_history(second)} == {
        "a": "worse",
        "b": "still_firing",
        "c": "resolved",
    }


def test_audits_have_separate_histories_and_retraining_continues_one(add_run):
    first = add_run(alert())
    for other in (add_run(alert(), corpus="another"), add_run(alert(), model="another")):
        assert statuses(other) == {ALERT: "new"}
        assert read_history(other)[0]["life_id"] != read_history(first)[0]["life_id"]
    assert statuses(add_run(alert(), model_digest="retrained", corpus_digest="grown")) == {ALERT: "still_firing"}


def test_incomplete_runs_are_ignored_but_not_those_with_errors(add_run):
    add_run(alert())
    for status in ("failed", "stopped", "running", "interrupted"):
        add_run(status=status, store=False)
    assert statuses(add_run(alert(), status="completed_with_errors")) == {ALERT: "still_firing"}
    assert statuses(add_run(status="completed_with_errors")) == {ALERT: "resolved"}


TOP, BOTTOM = 0.1, 0.8
MATCHES = [  # pairs before and now; whether place and template are the same
    (IDS[:4], IDS[:4], True, False, "still_firing"),
    (IDS[:4], IDS[4:], False, True, "still_firing"),
    (IDS[:4], IDS[:3], True, False, "still_firing"),  # three of four pairs
    (IDS[:4], IDS[2:], True, False, "new"),  # two of eight
    (IDS[:4], IDS[:4], False, False, "new"),
]


def test_an_overlay_is_matched_by_its_place_or_its_template_and_a_cluster_by_its_members(add_run):
    """The number of an overlay is not used. Different places and sizes of templates separate the cases."""
    now = [3, 0, 1, 4, 2]  # numbers in the second run
    before, after = [], []
    for case, (then_ids, now_ids, same_place, same_template, _) in enumerate(MATCHES):
        x, size = 0.15 * case, 3 + case
        before.append(overlay(case, (x, TOP), then_ids, [1.0] + [0.0] * (size - 1)))
        template = [1.0 if same_template else 0.0] + [0.0] * (size - 2) + [0.0 if same_template else 1.0]
        after.append(overlay(now[case], (x, TOP if same_place else BOTTOM), now_ids, template))
    members = (
        {"map cluster 1": IDS[:4], "map cluster 2": IDS[4:]},
        {"map cluster 1": IDS[4:7], "map cluster 2": IDS[3:5]},
    )
    clusters = [alert(slice=f"map cluster {number}", slice_kind="cluster") for number in (1, 2)]
    runs = [
        add_run(*(alert(name) for name, *_ in found), *clusters, overlays=found, clusters=list(of_run.items()))
        for found, of_run in zip((before, after), members, strict=True)
    ]
    first = {(row["region"], row["slice"]): row for row in read_history(runs[0])}
    second = {(row["region"], row["slice"]): row for row in read_history(runs[1]) if row["alert_id"] is not None}
    assert len(second) == 7
    for case, (*_, status) in enumerate(MATCHES):
        row = second[f"stamp {now[case]}", "consolidation"]
        assert row["life"] == status, case
        assert (row["life_id"] == first[f"stamp {case}", "consolidation"]["life_id"]) == (status == "still_firing")
    assert second["corner", "map cluster 1"]["life_id"] == first["corner", "map cluster 2"]["life_id"]
    assert [second["corner", f"map cluster {number}"]["life"] for number in (1, 2)] == ["still_firing", "new"]


def test_an_overlay_keeps_its_identity_over_many_runs_and_one_with_other_settings(add_run):
    place = (0.1, 0.1)
    runs = [
        add_run(alert("stamp 1"), overlays=[overlay(1, place)]),
        add_run(alert("stamp 2"), overlays=[overlay(2, place)]),
        add_run(**OTHER_SETTINGS),
        add_run(alert("stamp 3"), overlays=[overlay(3, place)]),
    ]
    rows = [row for run in runs for row in read_history(run)]
    assert [row["life"] for row in rows] == ["new", "still_firing", "not_seen", "still_firing"]
    assert len({row["life_id"] for row in rows}) == 1
    assert (rows[-1]["region"], rows[-1]["lasting_region"]) == ("stamp 3", f"stamp 1 of {runs[0].run_id}")


def test_the_absence_of_an_overlay_is_the_same_whatever_the_number_of_the_overlay(add_run):
    place = (0.1, 0.1)
    first = add_run(alert("absence of stamp 1"), overlays=[overlay(1, place)])
    second = add_run(alert("absence of stamp 2"), overlays=[overlay(2, place)])
    (row,) = read_history(second)
    assert (row["life"], row["lasting_region"]) == ("still_firing", f"absence of stamp 1 of {first.run_id}")


def test_the_newest_name_of_an_overlay_holds_in_all_runs_of_its_audit(add_run):
    place, elsewhere = (0.1, 0.1), (0.7, 0.7)
    first = add_run(alert("stamp 1"), overlays=[overlay(1, place), overlay(2, elsewhere, template=(0.0, 1.0, 0.0))])
    other_audit = add_run(alert("stamp 1"), overlays=[overlay(1, place)], model="another")
    second = add_run(alert("stamp 2"), overlays=[overlay(1, elsewhere, IDS[4:], (0.0, 0.0, 1.0)), overlay(2, place)])
    reviewer = Reviewer("Ann", "radiologist", "declared")
    name_overlay(first.lake, reviewer, first.run_id, "stamp 1", "a tag")
    name_overlay(first.lake, reviewer, second.run_id, "stamp 2", "PORT tag")
    name_overlay(first.lake, reviewer, other_audit.run_id, "stamp 1", "another audit")
    with sql.connect(first.lake) as connection:
        rows = sql.read(connection, "SELECT run_id, region, name FROM overlay_names ORDER BY run_id, region")
    assert [tuple(row.values()) for row in rows] == [
        (first.run_id, "stamp 1", "PORT tag"),
        (other_audit.run_id, "stamp 1", "another audit"),
        (second.run_id, "stamp 2", "PORT tag"),
    ]


def test_alerts_of_a_release_that_stored_no_history_continue(add_run):
    old = add_run(alert(), store=False)
    assert [(row["life"], row["announced"]) for row in read_history(old)] == [(None, True)]
    second = add_run(alert(state="confirmed", severity="low"))
    assert statuses(second) == {ALERT: "worse"}
    assert read_history(second)[0]["life_id"] == read_history(old)[0]["life_id"]


def list_events(run):
    """The events that a run sends, without its end."""
    settings = NotifyConfig(tell=("new", "resolved"))
    return [event.event for event in stage._list_events(run, settings, ()) if event.event != "m2ib.audit.completed"]


def test_a_run_that_ends_after_a_later_one_sends_no_events(add_run):
    first = add_run(alert())
    late = add_run(alert("frame"), store=False, status="running", name="20260102T000000-bbbbbb")
    add_run(alert("frame"), name="20260103T000000-cccccc")
    store_alert_history(late, MIN_PAIRS)
    late.finish("completed")
    assert list_events(late) == []
    assert {row["previous_run"] for row in read_history(late)} == {first.run_id}


def test_a_re_flagged_run_is_not_part_of_the_series(add_run):
    first, second = add_run(alert()), add_run(alert("frame"))
    again = add_run(alert("mark"), reflags=second.run_id)
    twice = add_run(alert("mark"), reflags=again.run_id)
    assert [read_history(run)[0]["previous_run"] for run in (again, twice)] == [second.run_id] * 2
    third = add_run(alert("frame"))
    assert statuses(third) == {("frame", "consolidation"): "still_firing"}  # `mark` is not resolved either
    old = add_run(alert("mark"), reflags=first.run_id)
    assert list_events(old) == []
    assert read_history(old)[0]["previous_run"] == first.run_id
    newest = add_run(alert("mark"), reflags=third.run_id)
    assert list_events(newest) == ["m2ib.alert.new", "m2ib.alert.resolved"]


def test_earlier_runs_that_cannot_be_read_make_every_alert_new(add_run):
    first, second = add_run(alert()), add_run(alert(), store=False)
    first.path("alerts").unlink()
    assert [row["life"] for row in store_alert_history(second, MIN_PAIRS)] == ["new"]


def test_a_lake_in_object_storage_has_the_same_history(remote_folder, run_class):
    add_run = start_audit(remote_folder, run_class)
    rows = [row for _ in range(2) for row in read_history(add_run(alert()))]
    assert [row["life"] for row in rows] == ["new", "still_firing"]
    assert len({row["life_id"] for row in rows}) == 1


def audit_of(run):
    with sql.connect(run.lake) as connection:
        return {row["run_id"]: row["audit_id"] for row in sql.read(connection, "FROM runs")}


def test_a_named_audit_keeps_its_history_when_model_and_corpus_change(add_run):
    first = add_run(alert("corner"), alert("gone"), audit="prod")
    settings = first.read_manifest()["config"] | {"model": {"architecture": "new"}, "corpus": {"path": "/moved"}}
    second = add_run(
        alert("corner"), audit="prod", model="new", corpus="/moved", config=settings, config_digest="other",
        shares=("gone", [0.1] * 8),
    )  # fmt: skip
    assert statuses(second) == {("corner", "consolidation"): "still_firing", ("gone", "consolidation"): "resolved"}
    assert read_history(second, "corner")[0]["life_id"] == read_history(first, "corner")[0]["life_id"]
    other = add_run(alert("corner"), audit="staging")
    assert statuses(other) == {("corner", "consolidation"): "new"}
    assert read_history(other)[0]["life_id"] != read_history(first, "corner")[0]["life_id"]
    assert audit_of(first)[first.run_id] == audit_of(first)[second.run_id] != audit_of(first)[other.run_id]


def test_runs_without_a_name_join_the_named_audit_of_their_corpus_and_model(add_run):
    unnamed = add_run(alert("corner"))
    named = add_run(alert("corner"), audit="prod")
    moved = add_run(alert("corner"), audit="prod", corpus="/moved")
    claimed_later = add_run(alert("corner"), audit="staging")
    assert statuses(named) == statuses(moved) == {("corner", "consolidation"): "still_firing"}
    assert statuses(claimed_later) == {("corner", "consolidation"): "new"}
    lives = {read_history(run)[0]["life_id"] for run in (unnamed, named, moved)}
    assert len(lives) == 1
    audits = audit_of(unnamed)
    assert audits[unnamed.run_id] == audits[named.run_id] == audits[moved.run_id] != audits[claimed_later.run_id]


def test_a_named_audit_continues_the_one_that_its_configuration_names(add_run):
    unnamed = add_run(alert("corner"), model="old")
    stranger = add_run(alert("corner"), model="stranger")
    named = add_run(alert("corner"), audit="prod", audit_continues=sql.audit_id(unnamed.read_manifest()))
    assert statuses(named) == {("corner", "consolidation"): "still_firing"}
    audits = audit_of(unnamed)
    assert audits[named.run_id] == audits[unnamed.run_id] != audits[stranger.run_id]
