"""The model is loaded once per process, and images are read by a pool of threads and kept for later stages."""

import threading
from collections import Counter

import numpy as np
import pytest

import m2ib
from corpora import Corpus
from tasks import inputs
from tasks.errors import BadInputError
from tasks.image_cache import ImageCache
from tasks.inputs import load_model, read_batch, read_batches
from tasks.settings import ModelConfig


def test_a_model_is_loaded_once(shared_phantom_audit, monkeypatch):
    source = shared_phantom_audit.config.models()[0]
    first = load_model(source)
    monkeypatch.setattr(m2ib, "load_encoder", lambda *_: pytest.fail("loaded again"))
    assert load_model(source.model_copy(update={"batch_size": 3})) is first


@pytest.mark.parametrize(
    ("architecture", "pretrained", "message"),
    [
        ("ViT-B-32", None, "a checkpoint file or a tag: openai"),
        ("ViT-B-32", "/nowhere/weights.safetensors", "there is no such file"),
        ("local-dir:/nowhere", None, "is no folder"),
        ("no-such-model", "openai", "expected a name from"),
        ("ViT-B-32", "no-such-tag", "expected the path of a checkpoint file or a tag: openai"),
    ],
)
def test_a_model_that_does_not_load_is_bad_input(architecture, pretrained, message):
    with pytest.raises(BadInputError, match=message):
        load_model(ModelConfig(architecture=architecture, pretrained=pretrained, device="cpu"))


@pytest.fixture
def ingested(begin_pipeline, settings, phantoms, lake):
    """A run whose pairs are stored, its inputs, its pairs and its model."""
    audit = begin_pipeline(settings(phantoms, lake))
    audit.ingest()
    source = audit.config.inputs()[0]
    return audit.run, source, list(audit.run.iter_rows("pairs")), load_model(source.model)


@pytest.fixture
def reads(monkeypatch):
    """How often each image was read from its corpus."""
    counter, lock, read = Counter(), threading.Lock(), Corpus.read_image

    def spy(self, place):
        with lock:
            counter[place] += 1
        return read(self, place)

    monkeypatch.setattr(Corpus, "read_image", spy)
    return counter


def test_a_batch_has_the_resized_images_of_its_pairs_in_order(ingested):
    run, source, pairs, network = ingested
    expected = [network.resize(inputs.read_image(source.corpus, pair)) for pair in pairs]
    for readers in (1, 3):
        batch = read_batch(run, source.model_copy(update={"readers": readers, "cache_bytes": readers}), pairs, network)
        assert np.array_equal(batch.images, expected)
        assert list(batch.pairs) == pairs
    sizes = [len(batch.pairs) for batch in read_batches(run, source, pairs, network, 15)]
    assert sizes == [15, 15, 10]
    assert list(read_batches(run, source, [], network, 15)) == []


def test_the_next_batch_is_read_while_one_is_processed(ingested, monkeypatch):
    run, source, pairs, network = ingested
    began, read = {pair["pair_id"]: threading.Event() for pair in pairs}, inputs.read_image

    def announce(corpus, pair):
        began[pair["pair_id"]].set()
        return read(corpus, pair)

    monkeypatch.setattr(inputs, "read_image", announce)
    batches = read_batches(run, source, pairs, network, 10)
    next(batches)
    assert began[pairs[19]["pair_id"]].wait(timeout=120)
    assert not began[pairs[20]["pair_id"]].is_set()


def test_an_image_is_read_once_for_all_its_pairs_and_stages(ingested, reads):
    run, source, pairs, network = ingested
    captions = [{**pair, "pair_id": f"{pair['pair_id']} {number}"} for pair in pairs for number in range(3)]
    batch = read_batch(run, source, captions, network)
    again = read_batch(run, source, captions, network)
    assert set(reads.values()) == {1}
    assert len(reads) == len(pairs)
    assert np.array_equal(batch.images, again.images)
    assert np.array_equal(batch.images[0], batch.images[2])
    inputs.clear_images()
    read_batch(run, source, captions, network)
    assert set(reads.values()) == {2}


def test_images_that_do_not_fit_into_the_cache_are_read_again(ingested, reads):
    run, source, pairs, network = ingested
    small = source.model_copy(
        update={"cache_bytes": 10 * network.resize(inputs.read_image(source.corpus, pairs[0])).nbytes}
    )
    reads.clear()
    first, second = (read_batch(run, small, pairs, network) for _ in range(2))
    assert Counter(reads.values()) == {1: 10, 2: 30}
    assert np.array_equal(first.images, second.images)


def test_a_cache_on_a_full_disk_keeps_what_it_has(monkeypatch):
    cache = ImageCache((2, 2, 3), 100)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    cache.add("a", image)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", fail)
    cache.add("b", image)
    monkeypatch.undo()
    cache.add("c", image)
    target = np.zeros((3, 2, 2, 3), np.uint8)
    assert [cache.read_into(row, sha256) for row, sha256 in zip(target, "abc", strict=True)] == [True, False, False]
    assert np.array_equal(target[0], image)
    assert not target[1:].any()
