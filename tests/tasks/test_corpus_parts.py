"""Ingest in parts gives the tables of an ingest without parts, and a resumed run reads only the parts that it lacks."""

import csv
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from corpora import CorpusError
from corpora.readers.imagefolder import FolderReader
from tasks import corpus_parts
from tasks.corpus_parts import ReadingPlan, plan_reading, read_part
from tasks.errors import BadInputError
from tasks.ingest import ingest
from tasks.inputs import load_corpus
from tasks.regions import Detector
from tasks.settings import CorpusConfig, Inputs, ModelConfig

TABLES = {
    "pairs": "part-00000", "ingest_errors": "ingest", "near_duplicates": "part-00000", "detections": "part-00000"
}  # fmt: skip
NUMBER = 30


@pytest.fixture
def source(tmp_path):
    """A corpus of NUMBER rows: one repeats an earlier one, one has a malformed box, and an image is missing."""
    root = tmp_path / "corpus"
    root.mkdir()
    rng = np.random.default_rng(0)
    with (root / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file_name", "text", "site", "tag_box"))
        for number in range(NUMBER):
            image = 3 if number == 20 else number
            if number != 7:
                pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / f"{number}.png")
            box = "1,2" if number == 11 else "0,0,0.5,0.5" if number % 2 else ""
            rows.writerow((f"{image}.png", f"a caption {image} é", f"s{number % 3}", box))
    load_corpus.cache_clear()
    return CorpusConfig(path=root)


def find_corner(image, caption):
    if "caption 4 " in caption:
        raise ValueError("no corner")
    return {"corner": [(0, 0, 0.25, 0.5)]}


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    """The detector `corner`, which fails on one pair; parts have 4 rows."""
    corpus_parts._load_detectors.cache_clear()
    monkeypatch.setattr(corpus_parts, "ROWS_PER_PART", 4)
    for module in ("tasks.corpus_parts", "tasks.ingest"):
        monkeypatch.setattr(f"{module}.load_detectors", lambda names: [Detector(name, find_corner) for name in names])
    yield
    corpus_parts._load_detectors.cache_clear()


@pytest.fixture
def begin_run(lake, run_class):
    """begin_run(number): a run whose id is the same length for each number."""

    def begin(number):
        return run_class(lake, f"run-{number}").begin(corpus_digest=None)

    return begin


COLUMNS = {"tag": "tag_box"}


def ingest_in_parts(run, source, order=list, **options):
    """Ingest as the flow does, without Prefect; `order` arranges the parts as tasks would compute them."""
    inputs = Inputs(corpus=source, model=ModelConfig(architecture="none"), readers=2)
    reading = plan_reading(run, source, 0)
    if reading:
        parts = list(reading.parts)
        for part in order(parts):
            read_part.fn(run, ReadingPlan(inputs, ["corner"]), part)
        reading = replace(reading, parts=[replace(part, data=None) for part in parts])
    return ingest.fn(run, source, COLUMNS, 8, 0, ["corner"], 2, reading)


def read_stored(run):
    """Return everything that ingest stores, except for the run's id."""
    tables = {}
    for table, name in TABLES.items():
        file = pq.ParquetFile(run.path(table, name))
        groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        tables[table] = groups, [row | {"run_id": None} for row in file.read().to_pylist()]
    record = run.read_manifest()
    return tables, {key: record[key] for key in ("counts", "corpus_digest", "failed_detectors", "detector_failures")}


@pytest.mark.parametrize("sampling", [{}, {"sample": 15}, {"sample": 12, "stratify": "site"}])
@pytest.mark.parametrize("order", [list, reversed])
def test_tables_and_digest_are_those_of_an_ingest_without_parts(begin_run, source, sampling, order):
    source = source.model_copy(update=sampling)
    whole, parts = begin_run(0), begin_run(1)
    shards = ingest.fn(whole, source, COLUMNS, 8, 0, ["corner"], 2)
    assert ingest_in_parts(parts, source, order) == shards
    assert read_stored(parts) == read_stored(whole)
    tables, facts = read_stored(parts)
    assert facts["counts"]["corpus_rows"] == NUMBER
    assert facts["counts"]["not_sampled"] == NUMBER - sampling.get("sample", NUMBER)
    if not sampling:
        reasons = [row["reason"] for row in tables["ingest_errors"][1]]
        assert reasons == ["missing_file", "malformed_box", "duplicate_pair"]
        assert facts["detector_failures"][0].endswith("first error: 4.png: ValueError: no corner")
    assert not list(parts.folder.glob("parts/*"))


def test_a_small_corpus_has_no_parts(begin_run, source, monkeypatch):
    monkeypatch.setattr(corpus_parts, "ROWS_PER_PART", NUMBER)
    assert plan_reading(begin_run(0), source, 0) is None
    monkeypatch.setattr(corpus_parts, "ROWS_PER_PART", NUMBER - 1)
    assert plan_reading(begin_run(1), source, 0) is not None
    assert plan_reading(begin_run(2), source.model_copy(update={"sample": NUMBER - 1}), 0) is None


def test_a_resumed_run_reads_only_the_parts_that_it_lacks(begin_run, source, monkeypatch):
    opened, image = [], FolderReader.image

    def spy(self, place):
        opened.append(place.name)
        return image(self, place)

    monkeypatch.setattr(FolderReader, "image", spy)

    def stop(parts):
        yield from parts[:3]
        raise KeyboardInterrupt

    run, whole = begin_run(0), begin_run(1)
    with pytest.raises(KeyboardInterrupt):
        ingest_in_parts(run, source, stop)
    assert sorted(opened) == sorted(f"{number}.png" for number in range(12))
    opened.clear()
    ingest_in_parts(run, source)
    assert not set(opened) & {f"{number}.png" for number in range(12) if number != 3}  # row 20 has image 3
    opened.clear()
    ingest_in_parts(run, source)  # the stage is complete
    assert opened == []
    ingest.fn(whole, source, COLUMNS, 8, 0, ["corner"], 2)
    assert read_stored(run) == read_stored(whole)


def test_a_part_whose_rows_have_changed_is_read_again(begin_run, source):
    def stop(parts):
        yield from parts[:3]
        raise KeyboardInterrupt

    run, whole = begin_run(0), begin_run(1)
    with pytest.raises(KeyboardInterrupt):
        ingest_in_parts(run, source, stop)
    table = source.root / "metadata.csv"
    table.write_text(table.read_text().replace("a caption 5 ", "another caption 5 "))
    ingest_in_parts(run, source)
    ingest.fn(whole, source, COLUMNS, 8, 0, ["corner"], 2)
    assert read_stored(run) == read_stored(whole)


def test_a_corpus_that_cannot_be_read_is_bad_input(begin_run, source, monkeypatch):
    rows = FolderReader.rows

    def end_early(self):
        yield from islice(rows(self), 6)
        raise CorpusError("damaged after row 6")

    with monkeypatch.context() as patch:
        patch.setattr(FolderReader, "rows", end_early)
        reading = plan_reading(begin_run(0), source, 0)
        with pytest.raises(BadInputError, match="damaged after row 6"):
            list(reading.parts)
    table = source.root / "metadata.csv"
    table.write_text(table.read_text().replace("text", "txt", 1))
    with pytest.raises(BadInputError, match="txt"):
        plan_reading(begin_run(1), source, 0)


def test_a_part_that_is_lost_before_the_join_is_an_error(begin_run, source):
    run = begin_run(0)

    def lose(parts):
        yield from parts
        (run.folder / parts[2].name).unlink()

    with pytest.raises(FileNotFoundError, match="resume the run"):
        ingest_in_parts(run, source, lose)
    assert run.read_manifest()["files"] == []
    ingest_in_parts(run, source)
    assert run.read_manifest()["counts"]["corpus_rows"] == NUMBER
