"""All formats give the same pairs: ids, captions, attributes and images, and the same maps."""

import pytest

from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from corpora import FORMATS, Pair, open_corpus

PAIRS = [
    SourcePair(f"{number:02d}.jpg", pair.data, f"a caption {number}", {"site": f"s{number % 2}"})
    for number, pair in enumerate(generate_source_pairs(12, 64))
]
WITHOUT_ATTRIBUTES = ("coco", "captions-tsv")


def read(root):
    rows = list(open_corpus(root).pairs())
    assert all(isinstance(row, Pair) for row in rows), rows
    return rows


@pytest.fixture(scope="module")
def folders_by_format(tmp_path_factory):
    return {name: write(PAIRS, tmp_path_factory.mktemp("all") / name) for name, write in WRITERS.items()}


def test_every_format_has_a_writer():
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_format_is_recognized_and_gives_the_same_pairs(folders_by_format, name):
    corpus = open_corpus(folders_by_format[name])
    assert corpus.format == name
    assert corpus.count() == len(PAIRS)
    expected, pairs = read(folders_by_format["folder"]), read(folders_by_format[name])
    for first, second in zip(expected, pairs, strict=True):
        assert (second.pair_id, second.caption, second.fingerprint) == (first.pair_id, first.caption, first.fingerprint)
        assert corpus.read_image(second.place).sha256 == first.image_sha256
        assert name in WITHOUT_ATTRIBUTES or second.attributes == first.attributes


@pytest.mark.slow
def test_the_maps_of_all_formats_are_identical(folders_by_format, settings, tmp_path):
    import pyarrow.parquet as pq

    from flows.begin import begin
    from tasks.attribute import attribute_pairs, calibrate_features
    from tasks.ingest import ingest

    maps = {}
    for name, root in folders_by_format.items():
        config = settings(root, tmp_path / name)
        source, models = config.corpus, config.models()
        run = begin(config, models, None)
        record = run.read_manifest()
        plan = config.attribution_plan(record | {"corpus_digest": "digest"})
        shards = ingest.fn(run, source, config.regions.columns, 16, config.seed)
        calibrate_features(run, source, models[0], plan)
        result = attribute_pairs(run, shards[0], source, models[0], plan)
        table = pq.read_table(run.path("attributions", result.name))
        maps[name] = {row["pair_id"]: (row["image_map"], row["text_map"]) for row in table.to_pylist()}
    assert len(maps["folder"]) == len(PAIRS)
    for name, maps_of_format in maps.items():
        assert maps_of_format == maps["folder"], name
