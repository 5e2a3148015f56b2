"""Stages are computed in parts by separate tasks. A part is computed once, and its file goes when the stage ends."""

import pytest

import sql
from tasks import confirm as confirm_stage
from tasks.confirm import confirm, plan_tests
from tasks.interventions.samples import clear_samples
from tasks.parts import chunks, make_parts, remove_parts
from tasks.screen import cover_regions, plan_screening, screen

STAGES = {
    "screen": (plan_screening, cover_regions, screen, "screenings"),
    "confirm": (plan_tests, confirm_stage.run_tests, confirm, "confirmations"),
}


def read_table(run, table):
    with run.connect() as connection:
        return sql.read(connection, f"FROM {table} ORDER BY ALL")


def test_rows_of_a_part_are_computed_once_and_kept_exactly(hand_written_run):
    part, other = make_parts(hand_written_run, "stage", ["a", "b"])
    rows = [{"x": 0.1 + 0.2, "y": None, "z": "ä"}]
    assert part.rows(hand_written_run, lambda: iter(rows)) == rows
    assert part.rows(hand_written_run, lambda: pytest.fail("computed again")) == rows
    (changed,) = make_parts(hand_written_run, "stage", ["other work"])
    assert changed.rows(hand_written_run, list) == []
    assert other.rows(hand_written_run, list) == []
    hand_written_run.add_pairs(["a caption"])
    hand_written_run.add_attributions([[1.0]], (1, 1))
    (later, _) = make_parts(hand_written_run, "stage", ["a", "b"])  # a shard that had failed is attributed now
    assert later.rows(hand_written_run, lambda: [{"x": 2}]) == [{"x": 2}]
    remove_parts(hand_written_run, "stage")
    assert not list(hand_written_run.folder.glob("parts/*"))
    assert part.rows(hand_written_run, list) == []
    assert list(chunks([1, 2, 3], 2)) == [[1, 2], [3]]


def test_a_damaged_part_is_computed_again(hand_written_run):
    (part,) = make_parts(hand_written_run, "stage", ["a"])
    part.rows(hand_written_run, lambda: [{"x": 1}])
    path = hand_written_run.folder / part.name
    path.write_bytes(path.read_bytes()[:5])
    assert part.rows(hand_written_run, lambda: [{"x": 2}]) == [{"x": 2}]
    assert part.rows(hand_written_run, list) == [{"x": 2}]


def test_a_part_that_fails_leaves_no_file(hand_written_run):
    def fail():
        yield {"x": 1}
        raise RuntimeError("the image store did not answer")

    (part,) = make_parts(hand_written_run, "stage", ["a"])
    with pytest.raises(RuntimeError):
        part.rows(hand_written_run, fail)
    assert part.rows(hand_written_run, list) == []


@pytest.mark.parametrize("stage", STAGES)
def test_parts_of_any_order_give_the_rows_of_the_whole_stage(run_with_findings, use_toy_model, stage):
    run, plan = run_with_findings
    use_toy_model(1.0)
    plan_parts, compute_part, join, table = STAGES[stage]
    expected_count = join.fn(run, plan)
    expected = read_table(run, table)
    assert expected
    clear_samples(run)
    model = use_toy_model(1.0)
    parts = plan_parts(run, plan)
    assert len(parts) > (stage != "screen")
    for part in reversed(parts):
        compute_part.fn(run, plan, part)
    model.num_embedded = 0
    assert join.fn(run, plan) == expected_count
    assert model.num_embedded == 0
    assert read_table(run, table) == expected
    assert not list(run.folder.glob("parts/*"))


def test_findings_of_a_part_that_was_interrupted_are_not_tested_again(run_with_findings, use_toy_model, monkeypatch):
    run, plan = run_with_findings
    use_toy_model(1.0)
    work = [finding for part in plan_tests(run, plan) for finding in part.work]
    (part,) = make_parts(run, "confirm", [work])
    tested = []

    def test(finding, *_):
        tested.append(finding["region"])
        if len(tested) == 3:
            raise KeyboardInterrupt
        yield {"region": finding["region"]}

    monkeypatch.setattr(confirm_stage, "_test_finding", test)
    with pytest.raises(KeyboardInterrupt):
        confirm_stage._test_part(run, plan, part)
    regions = [finding["region"] for finding in work]
    assert confirm_stage._test_part(run, plan, part) == [{"region": region} for region in regions]
    assert tested == [*regions, regions[2]]
    assert len(regions) == 3


def test_a_stage_that_was_interrupted_computes_only_the_parts_without_a_file(
    run_with_findings, use_toy_model, monkeypatch
):
    run, plan = run_with_findings
    use_toy_model(1.0)
    tested, test = [], confirm_stage._test_finding

    def spy(finding, *others):
        tested.append(finding["region"])
        if len(tested) == 2:
            raise KeyboardInterrupt
        return test(finding, *others)

    monkeypatch.setattr(confirm_stage, "_test_finding", spy)
    with pytest.raises(KeyboardInterrupt):
        confirm.fn(run, plan)
    assert confirm.fn(run, plan) == 2
    assert tested[:2] == ["corner top-left", "corner top-right"]
    assert tested[2:] == ["corner top-right", "frame"]
