"""A lake that is built once per session, for tests that only read."""

import pytest

RUN = "20260101T000000-aaaaaa"


def write_run(lake):
    """A run with three pairs, an alert on the first one's word, and another that it explains."""
    run = lake.begin(RUN)
    (lake.corpus / "metadata.csv").write_text("file_name,text\n")  # makes the folder a corpus
    pairs = [lake.make_pair(0, "dense shadow"), lake.make_pair(1, "clear"), lake.make_pair(2, "dense and clear")]
    lake.write(run, pairs, finish=False)
    lake.alert(
        run,
        [
            {"slice": "dense", "n": 2, "pair_ids": ["pair0000", "pair0002"]},
            {"slice": "shadow", "explained_by": "dense", "effect": 4.0, "pair_ids": ["pair0000"]},
        ],
    )
    run.finish("completed")
    return run


def write_tests(run):
    """Tests of the first alert, one for each fill."""
    base = {
        "rule": "region_mass", "region": "corner top-left", "slice_kind": "word", "slice": "dense", "n": 2,
        "margin": 0.4, "drop": 0.3, "control_drop": 0.1, "effect": 0.2, "low": 0.125, "high": 0.275, "p": 0.001,
        "q": 0.002, "tests": 3, "floor": 0.04, "passed": True, "confirmed": True,
    }  # fmt: skip
    run.write_table("confirmations", [base | {"fill": fill} for fill in ("mean", "blur", "swap")])


def write_errors(run):
    """Three error rows, of two stages."""
    errors = [("ingest", "cut"), ("ingest", "empty"), ("attribute", "shard_failed")]
    rows = [
        {"row_number": number, "stage": stage, "file_name": f"{reason}.png", "reason": reason, "detail": "<b>x</b>"}
        for number, (stage, reason) in enumerate(errors)
    ]
    run.write_table("ingest_errors", rows)


@pytest.fixture
def stored_run(lake):
    """The run of `write_run`, for a test that changes it."""
    return write_run(lake)


@pytest.fixture(scope="session")
def shared_lake(tmp_path_factory, make_lake):
    """A lake with the run of `write_run`, its tests and errors. Not to be changed."""
    lake = make_lake(tmp_path_factory.mktemp("shared"))
    run = write_run(lake)
    write_tests(run)
    write_errors(run)
    run.update(stage_seconds={"ingest": 1.5, "attribute": 65.0})
    return lake
