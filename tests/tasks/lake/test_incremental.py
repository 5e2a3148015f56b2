"""An incremental run reuses the attributions of an earlier run; only new pairs go to the model."""

import dataclasses
import shutil

import pyarrow.parquet as pq
import pytest

import m2ib
import sql
from flows.begin import begin
from stores import file_sha256
from tasks import attribute as stage
from tasks.errors import StoreError
from tasks.lake.finished import note_finished
from tasks.lake.journal import record_run_end
from tasks.lake.run import Run

ROWS = 12


@pytest.fixture
def write_corpus(phantoms, tmp_path):
    """write_corpus(numbers, captions): write these phantoms to a folder, some of them with other captions."""
    header, *lines = (phantoms / "metadata.csv").read_text().splitlines(keepends=True)
    root = tmp_path / "corpus"

    def write(numbers, captions=()):
        root.mkdir(exist_ok=True)
        chosen = [lines[number] for number in numbers]
        for text in chosen:
            shutil.copy(phantoms / text.split(",", 1)[0], root)
        for place, caption in dict(captions).items():
            chosen[place] = f"{chosen[place].split(',', 1)[0]},{caption}\n"
        assert header.startswith("file_name,text")
        extra = header.count(",") - 1
        chosen = [text if place not in dict(captions) else text.rstrip("\n") + "," * extra + "\n"
                  for place, text in enumerate(chosen)]  # fmt: skip
        (root / "metadata.csv").write_text("".join([header, *chosen]))
        return root

    return write


@pytest.fixture
def begin_run(begin_pipeline, settings, tmp_path):
    """begin_run(root, **sections): an incremental run in a shared lake; batches of one pair make maps exact."""

    def start(root, lake=tmp_path / "lake", incremental=True, **sections):
        bottleneck = {"steps": 1, "calibration_pairs": 6} | sections.pop("bottleneck", {})
        options = {"path": lake, "shard_size": 5, "incremental": incremental}
        all_sections = {"model": {"batch_size": 1}, "bottleneck": bottleneck} | sections
        return begin_pipeline(settings(root, lake, lake=options, **all_sections))

    return start


@pytest.fixture(scope="module")
def saved_lake(tmp_path_factory):
    """Folder in which the first test that needs `first_run` saves its lake."""
    return tmp_path_factory.mktemp("saved") / "lake"


@pytest.fixture
def first_run(write_corpus, begin_run, saved_lake, tmp_path):
    """A complete run over the first pairs, computed once and copied for each test."""
    root = write_corpus(range(ROWS))
    pipeline = begin_run(root)
    if not saved_lake.exists():
        complete_run(pipeline)
        shutil.copytree(pipeline.run.lake, saved_lake)
        return pipeline
    corpus_place = pipeline.run.read_manifest()["corpus"]
    shutil.rmtree(pipeline.run.lake)
    shutil.copytree(saved_lake, pipeline.run.lake)
    (folder,) = (pipeline.run.lake / "runs").iterdir()
    run = Run(pipeline.run.lake, folder.name)
    run.update(corpus=corpus_place)
    record_run_end(run)
    return dataclasses.replace(pipeline, run=run)


@pytest.fixture
def attributed_ids(monkeypatch):
    """Pair ids that reach the model, in order."""
    pair_ids = []
    original = m2ib.start_attribution

    def spy(*args, **kwargs):
        pair_ids.extend(kwargs["keys"])
        return original(*args, **kwargs)

    monkeypatch.setattr(m2ib, "start_attribution", spy)
    return pair_ids


def complete_run(pipeline):
    pipeline.to_lake()
    pipeline.run.finish("completed")
    return pipeline


def read_attributions(pipeline):
    rows = [row for path in pipeline.run.fetch_files("attributions") for row in pq.read_table(path).to_pylist()]
    return {row["pair_id"]: row for row in rows}


def drop_run_ids(rows):
    return {pair: {key: value for key, value in row.items() if key not in ("run_id", "attributed_by")}
            for pair, row in rows.items()}  # fmt: skip


def test_only_new_pairs_reach_the_model_and_all_maps_are_those_of_a_full_run(
    first_run, write_corpus, begin_run, attributed_ids, tmp_path
):
    assert first_run.run.read_manifest()["base_run"] is None
    assert "no complete run to build upon" in first_run.run.read_manifest()["incremental"]
    before = read_attributions(first_run)
    attributed_ids.clear()
    # Two pairs in front, one at the end, two gone.
    second = complete_run(begin_run(write_corpus([20, 21, *range(2, ROWS), 22])))
    record, found = second.run.read_manifest(), read_attributions(second)
    assert record["base_run"] == first_run.run.run_id
    assert len(attributed_ids) == 3
    assert set(attributed_ids) == found.keys() - before.keys()
    assert (record["counts"]["pairs"], record["counts"]["attributions"], record["counts"]["reused"]) == (13, 13, 10)
    assert record["since_calibration"] == pytest.approx(3 / 13)
    assert {row["run_id"] for row in found.values()} == {second.run.run_id}
    assert {
        pair for pair, row in found.items() if row["attributed_by"] == first_run.run.run_id
    } == before.keys() & found
    # A full run with the same statistics.
    full = begin_run(tmp_path / "corpus", lake=tmp_path / "other lake", incremental=False)
    full.ingest()
    shutil.copy(first_run.run.folder / "calibration.safetensors", full.run.folder)
    note_finished(full.run, "calibration", [full.run.relative_path("calibration.safetensors")])
    full.to_lake()
    assert drop_run_ids(read_attributions(full)) == drop_run_ids(found)
    with second.run.connect() as connection:
        (accounting,) = sql.rows(connection, "gates/accounting", run_id=second.run.run_id)
        (run,) = sql.read(connection, "SELECT base_run, reused FROM runs")
    assert run == {"base_run": first_run.run.run_id, "reused": 10}
    assert (accounting["rows_unaccounted"], accounting["pairs_unaccounted"]) == (0, 0)


def test_the_feature_statistics_of_the_first_run_are_used_by_all_later_ones(
    first_run, write_corpus, begin_run, monkeypatch, attributed_ids
):
    lines = [first_run]
    monkeypatch.setattr(m2ib, "calibrate", lambda *_: pytest.fail("calibrated again"))
    lines += [complete_run(begin_run(write_corpus(range(ROWS + more)))) for more in (1, 2)]
    base, _, third = (pipeline.run for pipeline in lines)
    record = third.read_manifest()
    path = third.folder / "calibration.safetensors"
    assert record["calibration_run"] == base.run_id
    assert record["calibration_sha256"] == file_sha256(path) == file_sha256(base.folder / path.name)
    assert [entry["path"] for entry in record["files"] if entry["table"] is None] == [
        path.relative_to(third.lake).as_posix()
    ]
    assert record["since_calibration"] == pytest.approx(2 / 14)
    assert len(attributed_ids) == 2
    shutil.rmtree(lines[1].run.folder)  # a run has copies of all files that it needs
    assert {row["attributed_by"] for row in read_attributions(lines[2]).values()} == {
        None, base.run_id, lines[1].run.run_id,
    }  # fmt: skip


def test_a_changed_caption_or_image_is_a_new_pair(first_run, write_corpus, begin_run, attributed_ids):
    root = write_corpus(range(ROWS), {3: "another caption"})
    names = [text.split(",", 1)[0] for text in (root / "metadata.csv").read_text().splitlines()[1:]]
    shutil.copy(root / names[5], root / names[6])
    second = complete_run(begin_run(root))
    pairs = {row["row_number"]: row for row in pq.read_table(second.run.path("pairs")).to_pylist()}
    assert set(attributed_ids) == {pairs[3]["pair_id"], pairs[6]["pair_id"]}


def test_a_run_without_new_pairs_does_not_load_the_model(first_run, write_corpus, begin_run, monkeypatch):
    second = begin_run(write_corpus(range(ROWS)))
    monkeypatch.setattr(stage, "load_model", lambda _: pytest.fail("the model was loaded"))
    complete_run(second)
    assert second.run.read_manifest()["counts"]["reused"] == ROWS


def test_an_interrupted_run_resumes_with_the_same_base(first_run, write_corpus, begin_run, attributed_ids):
    second = begin_run(write_corpus(range(ROWS + 2)))
    shards = second.ingest()
    done = second.attribute(shards[0])
    second.run.finish("failed", "because")
    later = complete_run(begin_run(write_corpus(range(ROWS + 2))))  # a newer base exists by now
    assert later.run.read_manifest()["base_run"] == first_run.run.run_id
    config = second.config.model_copy(update={"lake": second.config.lake.model_copy(update={"incremental": False})})
    resumed = begin(config, config.models(), second.run.run_id)
    assert resumed.read_manifest()["base_run"] == first_run.run.run_id
    results = second.to_lake()
    assert results[0] == dataclasses.replace(done, reused=True)
    assert second.run.read_manifest()["counts"]["reused"] == ROWS
    assert drop_run_ids(read_attributions(second)) == drop_run_ids(read_attributions(later))


CAPTURING = {"concepts": {"enabled": True}}


def read_features(pipeline):
    return {row["pair_id"]: row for row in pipeline.run.iter_rows("patch_features")}


def test_patch_features_are_reused_with_the_maps_and_the_projection(write_corpus, begin_run, attributed_ids):
    first = complete_run(begin_run(write_corpus(range(ROWS)), **CAPTURING))
    attributed_ids.clear()
    second = complete_run(begin_run(write_corpus([20, *range(2, ROWS)]), **CAPTURING))
    before, after = read_features(first), read_features(second)
    assert after.keys() == read_attributions(second).keys()
    assert {pair for pair in after if pair not in before} == {*attributed_ids}
    assert len(attributed_ids) == 1
    kept = after.keys() & before.keys()
    assert all(after[pair]["vectors"] == before[pair]["vectors"] for pair in kept)
    assert {row["run_id"] for row in after.values()} == {second.run.run_id}
    files = [pipeline.run.folder / "patch_projection.safetensors" for pipeline in (first, second)]
    assert file_sha256(files[0]) == file_sha256(files[1]) == second.run.read_manifest()["projection_sha256"]
    listed = {entry["path"].rpartition("/")[2] for entry in second.run.read_manifest()["files"] if not entry["table"]}
    assert listed == {"calibration.safetensors", "patch_projection.safetensors"}


def test_a_run_without_patch_features_is_no_base_of_one_that_needs_them(first_run, write_corpus, begin_run):
    record = begin_run(write_corpus(range(ROWS)), **CAPTURING).run.read_manifest()
    assert (record["base_run"], record["projection_sha256"]) == (None, None)
    assert "differs in [concepts] settings" in record["incremental"]


def test_pairs_whose_patch_features_are_damaged_are_attributed_again(write_corpus, begin_run, attributed_ids):
    first = complete_run(begin_run(write_corpus(range(ROWS)), **CAPTURING))
    path = first.run.fetch_files("patch_features")[0]
    lost = {row["pair_id"] for row in pq.read_table(path).to_pylist()}
    path.write_bytes(b"damaged")
    attributed_ids.clear()
    second = complete_run(begin_run(write_corpus(range(ROWS)), **CAPTURING))
    assert {*attributed_ids} == lost
    assert read_features(second).keys() == read_attributions(second).keys()


def test_pairs_that_the_base_could_not_attribute_are_retried(write_corpus, begin_run, attributed_ids):
    root = write_corpus(range(ROWS))
    first_run = begin_run(root)
    shards = first_run.ingest()
    pair = first_run.run.read_row_group("pairs", 0)[2]
    (root / pair["file_name"]).unlink()
    first_run.calibrate()
    first_run.store([first_run.attribute(shard) for shard in shards])
    first_run.run.finish("completed")
    attributed_ids.clear()
    second = complete_run(begin_run(write_corpus(range(ROWS))))
    assert attributed_ids == [pair["pair_id"]]
    assert second.run.read_manifest()["counts"]["attributions"] == ROWS


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bottleneck": {"seed": 1}}, "bottleneck settings"),
        ({"bottleneck": {"second_seed": True}}, "bottleneck settings"),
        ({"architecture": "demo/clean"}, "model_digest"),
    ],
)
def test_run_with_other_settings_is_not_a_base_and_the_manifest_has_the_reason(
    write_corpus, begin_run, changed, reason
):
    first_run = begin_run(write_corpus(range(4)))
    first_run.run.finish("completed")
    record = begin_run(write_corpus(range(4)), **changed).run.read_manifest()
    assert record["base_run"] is None
    newest = f"the newest complete run {first_run.run.run_id}"
    assert record["incremental"] == f"attributes all pairs: {newest} differs in {reason}"


def test_settings_that_do_not_change_maps_do_not_change_the_base(write_corpus, begin_run):
    first_run = begin_run(write_corpus(range(4)))
    first_run.run.finish("completed")
    second = begin_run(write_corpus(range(4)), alerts={"factor": 3}, regions={"frame": 0.1})
    assert second.run.read_manifest()["base_run"] == first_run.run.run_id


def test_the_newest_complete_run_with_the_same_settings_is_the_base(write_corpus, begin_run):
    fits, other, unfinished = (begin_run(write_corpus(range(4)), bottleneck={"seed": seed}) for seed in (0, 1, 0))
    fits.run.finish("completed")
    other.run.finish("completed")
    unfinished.run.finish("failed", "because")
    assert begin_run(write_corpus(range(4))).run.read_manifest()["base_run"] == fits.run.run_id
    assert begin_run(write_corpus(range(4)), incremental=False).run.read_manifest()["base_run"] is None


def test_run_of_another_code_version_is_not_a_base(write_corpus, begin_run, monkeypatch):
    begin_run(write_corpus(range(4))).run.finish("completed")
    monkeypatch.setattr("flows.begin.code_version", lambda: "another")
    assert "differs in code_version" in begin_run(write_corpus(range(4))).run.read_manifest()["incremental"]


def test_run_with_missing_files_is_not_a_base(first_run, write_corpus, begin_run):
    first_run.run.fetch_files("attributions")[1].unlink()
    assert "files (some are missing)" in begin_run(write_corpus(range(ROWS))).run.read_manifest()["incremental"]


@pytest.mark.parametrize("damage", ["statistics", "gone"])
def test_a_base_that_is_damaged_later_fails_the_run(first_run, write_corpus, begin_run, damage):
    second = begin_run(write_corpus(range(ROWS + 1)))
    path = first_run.run.folder / "calibration.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 255
        path.write_bytes(data)
    with pytest.raises(StoreError, match="start a run that is not incremental"):
        second.to_lake()
    assert not second.run.fetch_files("attributions")


def test_runs_without_feature_statistics_build_upon_each_other(write_corpus, begin_run, attributed_ids):
    complete_run(begin_run(write_corpus(range(4)), bottleneck={"preset": "paper"}))
    second = complete_run(begin_run(write_corpus(range(6)), bottleneck={"preset": "paper"}))
    assert (len(attributed_ids), second.run.read_manifest()["calibration_sha256"]) == (6, None)
