"""Shards are attributed once, in batches of any size, into files whose names depend on all settings of a map."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
from PIL import Image

import m2ib
import sql
from tasks import attribute as stage
from tasks.errors import BadInputError
from tasks.lake.run import CALIBRATION, Run
from tasks.records import Shard, ShardResult

QUICK = {"steps": 2}


@pytest.fixture
def begin_audit(begin_pipeline, settings, phantoms, tmp_path):
    """begin_audit(corpus=, lake=, **sections): begin a run of a few steps with shards of 16 pairs."""

    def start(corpus=phantoms, lake=tmp_path / "lake", **sections):
        bottleneck = QUICK | sections.pop("bottleneck", {})
        return begin_pipeline(settings(corpus, lake, bottleneck=bottleneck, **sections))

    return start


@pytest.fixture(scope="module")
def attributed_audit(begin_pipeline, settings, phantoms, tmp_path_factory):
    """A run of a few steps with its shards attributed one by one, and their results. Not to be changed."""
    audit = begin_pipeline(settings(phantoms, tmp_path_factory.mktemp("finished") / "lake", bottleneck=QUICK))
    return audit, [audit.attribute(shard) for shard in audit.ingest()]


@pytest.fixture
def changeable_phantoms(phantoms, tmp_path):
    """Copies of eight phantoms, which a test may change."""
    root = tmp_path / "own phantoms"
    root.mkdir()
    lines = (phantoms / "metadata.csv").read_text().splitlines(keepends=True)[:9]
    (root / "metadata.csv").write_text("".join(lines))
    for text in lines[1:]:
        name = text.split(",", 1)[0]
        (root / name).write_bytes((phantoms / name).read_bytes())
    return root


def read_attributions(audit, result):
    return pq.read_table(audit.run.path("attributions", result.name)).to_pylist()


def read_stat(path):
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_maps(rows):
    return {row["pair_id"]: (row["image_map"], row["text_map"]) for row in rows}


def test_every_pair_of_the_shards_has_its_maps(shared_phantom_audit):
    run = shared_phantom_audit.run
    with run.connect() as connection:
        pairs = {row["pair_id"]: row for row in sql.read(connection, "FROM pairs")}
        rows = sql.read(connection, "FROM attributions")
    assert len(rows) == len(pairs) == 40
    assert {row["pair_id"] for row in rows} == pairs.keys()
    for row in rows:
        assert row["caption"] == pairs[row["pair_id"]]["caption"]
        assert row["caption_cut"] == 0
        assert (row["grid_h"], row["grid_w"], len(row["image_map"])) == (8, 8, 64)
        assert row["image_nats"] == pytest.approx(sum(row["image_map"]), rel=1e-5)
        assert row["text_nats"] == pytest.approx(sum(row["text_map"]), rel=1e-5)
        assert len(row["tokens"]) == len(row["special"]) == len(row["text_map"])
        assert (row["special"][0], row["special"][-1], any(row["special"][1:-1])) == (True, True, False)
        assert min(row["image_map"]) > -1e-3
        assert [row[f"view_{key}"] for key in ("x0", "y0", "x1", "y1")] == [0, 0, 1, 1]
        assert -1 <= row["cosine"] <= 1


def test_patches_are_stored_beside_the_maps_which_stay_as_they_are(attributed_audit, begin_audit):
    audit, results = attributed_audit
    capturing = begin_audit(concepts={"enabled": True})
    plain = read_maps(read_attributions(audit, results[0]))
    capturing.store([capturing.attribute(shard) for shard in capturing.ingest()])
    rows = {row["pair_id"]: row for row in capturing.run.iter_rows("attributions")}
    features = {row["pair_id"]: row for row in capturing.run.iter_rows("patch_features")}
    assert features.keys() == rows.keys()
    assert {pair: maps for pair, maps in read_maps(rows.values()).items() if pair in plain} == plain
    row = features[min(features)]
    assert (row["grid_h"], row["grid_w"], len(row["vectors"])) == (8, 8, 64 * 32)
    hottest = max(range(64), key=lambda cell: rows[min(features)]["image_map"][cell])
    assert row["hot"][0] == hottest
    assert 6 <= len(row["hot"]) <= 12


def test_the_name_of_a_shard_depends_on_the_depth_of_captured_patches(begin_audit, settings, phantoms, tmp_path):
    record = {"calibration_sha256": None, "projection_sha256": None, "corpus_digest": "d", "model_digest": "m",
              "code_version": "v"}  # fmt: skip
    sections = [{}, {"enabled": True}, {"enabled": True, "depth": 0.6}]
    plans = [settings(phantoms, tmp_path, concepts=each).attribution_plan(record) for each in sections]
    assert len({plan.key for plan in plans}) == 3
    assert [plan.capture_depth for plan in plans] == [None, 0.8, 0.6]


def test_a_finished_shard_is_not_attributed_again(attributed_audit, monkeypatch):
    audit, results = attributed_audit
    first = results[2]
    assert (first.attributions, first.errors, first.reused) == (8, 0, False)
    path = audit.run.path("attributions", first.name)
    before = read_stat(path)
    monkeypatch.setattr(m2ib, "start_attribution", lambda *_, **__: pytest.fail("the model was called"))
    monkeypatch.setattr(stage, "load_model", lambda _: pytest.fail("the model was loaded"))
    assert audit.attribute(first.shard) == dataclasses.replace(first, reused=True)
    assert read_stat(path) == before


def test_the_next_attempt_attributes_a_shard_that_failed_or_was_killed(begin_audit, monkeypatch):
    audit = begin_audit(model={"batch_size": 4})
    shard = audit.ingest()[2]
    audit.calibrate()
    original, calls = m2ib.start_attribution, []

    def fail_second_batch(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(m2ib, "start_attribution", fail_second_batch)
        with pytest.raises(RuntimeError, match="out of memory"):
            audit.attribute(shard)
    folder = audit.run.folder / "attributions"
    assert not list(folder.glob("*"))
    folder.mkdir(exist_ok=True)
    (folder / ".part-00002-0000000000000000.parquet.1.tmp").write_bytes(b"PAR1")  # of a killed process
    result = audit.attribute(shard)
    assert (result.attributions, result.reused) == (8, False)


def test_file_name_depends_on_all_settings_of_a_map(attributed_audit, settings, phantoms):
    audit, results = attributed_audit
    shards = [result.shard for result in results]
    pairs = audit.run.read_row_group("pairs", 0)
    record = audit.run.read_manifest()

    def name(config=audit.config, shard=shards[0], rows=pairs, **changed):
        return stage._shard_name(shard, config.attribution_plan(record | changed), rows)

    def make_config(**bottleneck):
        return settings(phantoms, audit.run.lake, bottleneck=QUICK | bottleneck)

    names = [
        name(),
        name(make_config(seed=1)),
        name(make_config(steps=3)),
        name(make_config(preset="paper")),
        name(make_config(calibration_pairs=32)),
        name(make_config(image={"beta": 0.5})),
        name(make_config(text={"special": "open"})),
        name(model_digest="another"),
        name(corpus_digest="another"),
        name(code_version="another"),
        name(rows=pairs[1:]),
        name(rows=pairs[::-1]),
        name(shard=shards[1], rows=audit.run.read_row_group("pairs", 1)),
    ]
    assert len(set(names)) == len(names)
    assert name() == names[0]
    # Settings that change no map are not in the name: a run can be resumed with other sizes or on another device.
    equivalent = audit.config.model_copy(
        update={"model": audit.config.model.model_copy(update={"batch_size": 3, "device": "auto"})}
    )
    assert name(equivalent) == names[0]


def test_maps_do_not_depend_on_batch_or_shard_size_but_on_the_seed(attributed_audit, begin_audit, tmp_path):
    """A map does not depend on its neighbors."""
    audit, results = attributed_audit
    expected = read_maps(read_attributions(audit, results[2]))
    batches = begin_audit(lake=tmp_path / "batches", model={"batch_size": 3})
    other_batches = read_maps(read_attributions(batches, batches.attribute(batches.ingest()[2])))
    assert other_batches.keys() == expected.keys()
    split = begin_audit(lake=tmp_path / "shards")
    config = split.config.model_copy(update={"lake": split.config.lake.model_copy(update={"shard_size": 36})})
    split = dataclasses.replace(split, config=config)
    other_shards = read_maps(read_attributions(split, split.attribute(split.ingest()[1])))
    assert len(other_shards) == 4
    for other in (other_batches, other_shards):
        for pair, (image_map, text_map) in other.items():
            assert expected[pair][0] == pytest.approx(image_map, rel=1e-5, abs=1e-5)
            assert expected[pair][1] == pytest.approx(text_map, rel=1e-5, abs=1e-5)
    seed = begin_audit(lake=tmp_path / "seed", bottleneck={"seed": 4})
    other = read_maps(read_attributions(seed, seed.attribute(seed.ingest()[2])))
    assert other.keys() == expected.keys()
    assert all(other[pair] != expected[pair] for pair in expected)


def test_images_changed_since_ingest_become_error_rows(begin_audit, changeable_phantoms):
    audit = begin_audit(changeable_phantoms)
    shards = audit.ingest()
    assert shards == [Shard(0, 8)]
    pairs = audit.run.read_row_group("pairs", 0)
    changed, missing, truncated = (changeable_phantoms / pairs[number]["file_name"] for number in (1, 4, 6))
    Image.new("L", (80, 80), 7).save(changed)
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:200])
    result = audit.attribute(shards[0])
    assert (result.attributions, result.errors) == (5, 3)
    audit.store([result])
    with audit.run.connect() as connection:
        errors = sql.read(connection, "FROM ingest_errors ORDER BY row_number")
        attributed = sql.read(connection, "SELECT pair_id FROM attributions")
    assert [(row["stage"], row["row_number"]) for row in errors] == [("attribute", n) for n in (1, 4, 6)]
    assert [row["pair_id"] for row in errors] == [pairs[n]["pair_id"] for n in (1, 4, 6)]
    assert [row["reason"] for row in errors][:2] == ["changed_since_ingest", "missing_file"]
    assert errors[0]["file_name"] == changed.name
    assert "audit the corpus again" in errors[0]["detail"]
    assert errors[0]["attributes"] == dict(pairs[1]["attributes"])
    assert {row["pair_id"] for row in attributed} | {row["pair_id"] for row in errors} == {p["pair_id"] for p in pairs}
    counts = audit.run.read_manifest()["counts"]
    assert (counts["attributions"], counts["errors"]) == (5, 3)
    # The stored file also accounts for its error rows.
    assert audit.attribute(shards[0]) == dataclasses.replace(result, reused=True)


def test_shard_without_readable_images_has_only_error_rows(begin_audit, changeable_phantoms):
    audit = begin_audit(changeable_phantoms, bottleneck={"preset": "paper"})
    (shard,) = audit.ingest()
    for path in changeable_phantoms.glob("*.png"):
        path.unlink()
    result = audit.attribute(shard)
    assert (result.attributions, result.errors) == (0, 8)
    assert audit.store([result]) == 0


def test_calibration_is_stored_and_depends_on_the_seed(begin_audit, tmp_path, monkeypatch):
    content = []
    for seed in (0, 1):
        audit = begin_audit(lake=tmp_path / f"seed {seed}", bottleneck={"seed": seed, "calibration_pairs": 12})
        audit.ingest()
        statistics = audit.calibrate()
        assert statistics.image.mean.shape == (4, 128)
        assert statistics.text.mean.shape == (4, 64)
        content.append((audit.run.folder / CALIBRATION).read_bytes())
    assert content[0] != content[1]
    assert audit.store([]) == 0
    (entry,) = (entry for entry in audit.run.read_manifest()["files"] if entry["path"].endswith(CALIBRATION))
    assert entry["table"] is None
    monkeypatch.setattr(m2ib, "calibrate", lambda *_: pytest.fail("calibrated again"))
    before = read_stat(audit.run.folder / CALIBRATION)
    audit.calibrate()
    assert read_stat(audit.run.folder / CALIBRATION) == before


def test_tasks_of_shards_do_not_write_the_manifest(begin_audit, remote_folder, monkeypatch):
    """Concurrent processes that attribute shards of one run would overwrite each other's manifest."""
    audit = begin_audit(lake=str(remote_folder))
    shards = audit.ingest()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_write_manifest", lambda *_: pytest.fail("the manifest was written"))
        results = [audit.attribute(shard) for shard in shards]  # the first one also calibrates
    assert audit.store(results) == sum(shard.pairs for shard in shards)


def test_calibration_skips_unreadable_images(begin_audit, changeable_phantoms):
    audit = begin_audit(changeable_phantoms)
    audit.ingest()
    next(changeable_phantoms.glob("*.png")).unlink()
    assert audit.calibrate() is not None


def test_calibration_times_a_pair_unless_the_run_has_few_new_ones(begin_audit):
    audit = begin_audit()
    audit.ingest()
    inputs = audit.config.inputs()[0]
    assert 0 < stage.calibrate.fn(audit.run, inputs, audit.plan) < 60
    audit.run.update(base_run="20260101T000000-aaaaaa")
    assert stage.calibrate.fn(audit.run, inputs, audit.plan) is None


def test_a_sample_too_small_to_calibrate_is_bad_input(begin_audit, changeable_phantoms):
    text = (changeable_phantoms / "metadata.csv").read_text().splitlines(keepends=True)
    (changeable_phantoms / "metadata.csv").write_text("".join(text[:2]))
    audit = begin_audit(changeable_phantoms)
    audit.ingest()
    with pytest.raises(BadInputError, match=r"calibration: .*at least 2"):
        audit.calibrate()


def test_settings_of_the_paper_need_no_calibration(begin_audit, monkeypatch):
    audit = begin_audit(bottleneck={"preset": "paper"})
    monkeypatch.setattr(m2ib, "calibrate", lambda *_: pytest.fail("calibrated"))
    assert audit.calibrate() is None


def test_the_same_seed_gives_the_same_maps_bit_by_bit_also_in_threads(attributed_audit, begin_audit, monkeypatch):
    audit, expected = attributed_audit
    threaded = begin_audit()
    shards = threaded.ingest()
    threaded.calibrate()
    calibrations = [(each_audit.run.folder / CALIBRATION).read_bytes() for each_audit in (audit, threaded)]
    assert calibrations[0] == calibrations[1]
    with monkeypatch.context() as patch, ThreadPoolExecutor(len(shards)) as threads:
        patch.setattr(Run, "_write_manifest", lambda *_: pytest.fail("the manifest was written"))
        results = list(threads.map(threaded.attribute, shards))
    assert results == expected
    for result in results:
        assert read_maps(read_attributions(threaded, result)) == read_maps(read_attributions(audit, result))


def test_result_of_a_shard_contains_no_maps():
    assert {field.name for field in dataclasses.fields(ShardResult)} == {
        "shard", "name", "attributions", "errors", "reused", "failure", "files", "by",
    }  # fmt: skip
