"""From attributions to alerts: a planted bias raises alerts, unbiased maps do not."""

from datetime import UTC, datetime

import pytest

import sql
from tasks import alert as stage
from tasks.alert import alert
from tasks.flag import flag
from tasks.lake.run import Run
from tasks.settings import AlertsConfig
from tasks.store import corner_boxes

RULES = AlertsConfig(factor=2.0, min_pairs=3, examples=2)
EVEN = [1.0] * 16
CORNER = [9.0] + [1.0] * 15  # 9 of 24 nats on a sixteenth of the image: six times its share


@pytest.fixture
def run_with_bias(hand_written_run):
    """A run with maps of 4 x 4: those of consolidations concentrate on the top-left corner."""
    hand_written_run.add_pairs(["left consolidation"] * 4 + ["left nodule"] * 4 + ["normal chest"] * 14)
    hand_written_run.add_attributions([CORNER] * 4 + [EVEN] * 18, (4, 4))
    hand_written_run.add_regions(*corner_boxes(0.25).items())
    return hand_written_run


def test_shares_of_every_region_and_pair_are_stored(run_with_bias):
    assert flag.fn(run_with_bias, RULES, {}) == []
    with run_with_bias.connect() as connection:
        shares = sql.read(connection, "SELECT region, share, area, nats FROM region_shares ORDER BY pair_id, region")
        findings = sql.read(connection, "FROM findings WHERE rule <> 'region_sufficiency' ORDER BY effect DESC")
        sufficient = sql.read(connection, "FROM findings WHERE rule = 'region_sufficiency'")
    assert len(shares) == 22 * 4
    assert {row["area"] for row in shares} == {1 / 16}
    assert sorted({round(row["share"], 6) for row in shares}) == [round(1 / 24, 6), 1 / 16, 0.375]
    assert [(row["slice"], row["region"], row["rule"]) for row in findings] == [
        ("consolidation", "corner top-left", "region_mass"),
        ("left", "corner top-left", "region_mass"),
    ]
    # Corners are not screened: mass proposes that they may be sufficient.
    assert {(row["region"], row["reliance"]) for row in sufficient} == {("corner top-left", "sufficient")}
    assert findings[0]["effect"] == pytest.approx(6)
    assert findings[1]["effect"] == pytest.approx((4 * 6 + 4 * 1) / 8)  # of all pairs
    assert findings[1]["share"] == pytest.approx((4 * 0.375 + 4 / 16) / 8)
    assert {row["rule_digest"] for row in findings} == {sql.text_digest(sql.query_text("rules/region_mass"))}
    assert {row["run_id"] for row in findings} == {run_with_bias.run_id}


def test_figures_of_other_rules_are_those_of_all_pairs_or_their_own(run_with_bias):
    """The slice is large enough for halves that can be tested."""
    run_with_bias.add_pairs(["left consolidation"] * 11 + ["left nodule"] * 12 + ["normal chest"] * 14)
    run_with_bias.add_attributions([CORNER] * 11 + [EVEN] * 26, (4, 4))
    flag.fn(run_with_bias, RULES, {})
    with run_with_bias.connect() as connection:
        (slice_,) = sql.read(
            connection,
            "SELECT proposing_share, share, proposing_area, elsewhere FROM slice_shares "
            "WHERE slice = 'left' AND region = 'corner top-left'",
        )
        assert slice_["proposing_share"] != slice_["share"]
        kept, contrast = sql.rows(
            connection,
            "derive/figures_of_findings",
            run_id=run_with_bias.run_id,
            min_pairs=3,
            rules=["own", "region_contrast"],
            regions=["corner top-left"] * 2,
            slice_kinds=["word"] * 2,
            slices=["left"] * 2,
            shares=[0.9, slice_["proposing_share"]],
            areas=[0.5, slice_["proposing_area"]],
            effects=[7.0, 3.0],
        )
    assert kept == {"share": 0.9, "area": 0.5, "effect": 7.0}
    assert contrast["share"] == slice_["share"]
    assert contrast["effect"] == pytest.approx(slice_["share"] / slice_["elsewhere"])


def test_readers_see_all_rows_of_the_stage_or_none(run_with_bias, monkeypatch):
    flag.fn(run_with_bias, RULES, {})
    before = run_with_bias.read_manifest()["files"]
    writes, write_manifest = [], Run._write_manifest
    monkeypatch.setattr(Run, "_write_manifest", lambda run, text: writes.append(text) or write_manifest(run, text))
    flag.fn(run_with_bias, RULES, {})
    assert len(writes) == 1
    assert run_with_bias.read_manifest()["files"] == before  # rows of the first attempt are replaced

    monkeypatch.setattr("tasks.flag.evaluate_rule", lambda *_: pytest.fail("the process dies"))
    with pytest.raises(pytest.fail.Exception):
        flag.fn(run_with_bias, RULES.model_copy(update={"factor": 1.0}), {"own": ""})
    assert len(writes) == 1


def test_planted_slice_is_alerted_and_explains_dependent_alerts(run_with_bias):
    flag.fn(run_with_bias, RULES, {})
    before = datetime.now(UTC)
    (independent,) = alert.fn(run_with_bias, RULES)
    assert (independent["region"], independent["slice_kind"], independent["slice"], independent["n"]) == (
        "corner top-left", "word", "consolidation", 4,
    )  # fmt: skip
    with run_with_bias.connect() as connection:
        alerts = sql.rows(connection, "review/alerts", run_id="all")
    assert [(row["slice"], row["explained_by"]) for row in alerts] == [
        ("consolidation", None),
        ("left", "consolidation"),
    ]
    assert alerts[0]["pair_ids"] == ["pair-0000", "pair-0001"]  # the number of examples of the settings
    assert before <= alerts[0]["raised_at"] <= datetime.now(UTC)
    assert len({row["alert_id"] for row in alerts}) == 2
    assert run_with_bias.read_manifest()["counts"]["alerts"] == 2


def test_maps_without_a_bias_raise_nothing(run_with_bias, rewrite_rows):
    rewrite_rows(
        run_with_bias, "attributions", lambda rows: [{**row, "image_map": EVEN, "image_nats": 16.0} for row in rows]
    )
    flag.fn(run_with_bias, RULES, {})
    assert alert.fn(run_with_bias, RULES) == []
    with run_with_bias.connect() as connection:
        assert sql.read(connection, "FROM alerts") == []


def test_empty_maps_raise_nothing(run_with_bias, rewrite_rows):
    empty = {"image_map": [0.0] * 16, "image_nats": 0.0}
    rewrite_rows(run_with_bias, "attributions", lambda rows: [{**row, **empty} for row in rows])
    flag.fn(run_with_bias, RULES, {})
    with run_with_bias.connect() as connection:
        assert sql.read(connection, "FROM findings") == []


@pytest.mark.parametrize(
    ("changes", "slices"), [({"factor": 6.1}, []), ({"min_pairs": 5}, ["left"])]
)  # with 5 pairs `consolidation` has too few
def test_thresholds_of_the_configuration_are_used(run_with_bias, changes, slices):
    settings = RULES.model_copy(update=changes)
    flag.fn(run_with_bias, settings, {})
    assert [row["slice"] for row in alert.fn(run_with_bias, settings)] == slices


def test_a_repeated_stage_replaces_its_rows_and_keeps_the_ids_of_alerts(run_with_bias):
    ids = []
    for _ in range(2):
        flag.fn(run_with_bias, RULES, {})
        ids.append([alert["alert_id"] for alert in stage.alert.fn(run_with_bias, RULES)])
    assert ids[0] == ids[1]
    assert len(ids[0]) == 1
    with run_with_bias.connect() as connection:
        counts = sql.read(
            connection,
            "SELECT (SELECT count(*) FROM findings) AS findings, (SELECT count(*) FROM alerts) AS alerts, "
            "(SELECT count(*) FROM region_shares) AS shares",
        )
    assert counts == [{"findings": 4, "alerts": 2, "shares": 88}]
    assert run_with_bias.read_manifest()["counts"]["alerts"] == 2


@pytest.mark.slow
def test_only_the_model_that_relies_on_the_tag_is_alerted(begin_pipeline, settings, tmp_path):
    from demo.corpus import generate

    corpus = generate(tmp_path / "phantoms", pairs=150)
    explanations = {}
    for model in ("demo/shortcut", "demo/clean"):
        config = settings(corpus, tmp_path / "lake", model, alerts={"min_pairs": 20}, lake={"shard_size": 64})
        pipeline = begin_pipeline(config)
        pipeline.to_lake()
        pipeline.to_alerts()
        with pipeline.run.connect() as connection:
            rows = sql.read(
                connection,
                "SELECT region, slice, explained_by FROM alerts WHERE run_id = $run",
                {"run": pipeline.run.run_id},
            )
        explanations[model] = {(row["region"], row["slice"]): row["explained_by"] for row in rows}
    assert explanations["demo/shortcut"]["corner top-left", "consolidation"] is None
    assert not [region for region, _ in explanations["demo/clean"] if region == "corner top-left"]


@pytest.mark.slow
def test_moving_tag_is_confirmed_only_for_the_model_that_relies_on_it(begin_pipeline, settings, tmp_path):
    from demo.corpus import generate

    corpus = generate(tmp_path / "phantoms", pairs=150, corner="random")
    states = {}
    for model in ("demo/shortcut", "demo/clean"):
        pipeline = begin_pipeline(settings(corpus, tmp_path / "lake", model, alerts={"min_pairs": 20}))
        pipeline.to_lake()
        states[model] = {(row["region"], row["slice"]): row["state"] for row in pipeline.to_alerts()}
    assert states["demo/shortcut"]["hottest corner", "consolidation"] == "confirmed"
    assert "confirmed" not in states["demo/clean"].values()
