"""An audit fetches and decodes each image at most twice: in ingest and in attribution."""

from collections import Counter
from pathlib import PurePosixPath

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flows.self_audit import self_audit
from tasks.discover import DiscoveryPlan, discover
from tasks.flag import flag
from tasks.inputs import clear_images, count_reads
from tasks.interventions.samples import InterventionPlan
from tasks.screen import screen
from tasks.validate import validate


@pytest.fixture
def fetches(monkeypatch):
    """How often each image of a remote corpus was fetched."""
    counter, fetch = Counter(), MemoryFileSystem.cat_file

    def spy(self, path, *others, **named):
        if str(path).endswith(".png"):
            counter[PurePosixPath(str(path)).name] += 1
        return fetch(self, path, *others, **named)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", spy)
    return counter


def audit(pipeline):
    """Run all stages that read images, one after the other."""
    config, run = pipeline.config, pipeline.run
    inputs = config.inputs()[0]
    pipeline.to_lake()
    validate.fn(run)
    discover.fn(run, DiscoveryPlan(inputs, config.discover, config.seed))
    tests = InterventionPlan(inputs, config.confirm, config.alerts.min_pairs, config.seed)
    screen.fn(run, tests)
    flag.fn(run, config.alerts, config.custom_rules)
    pipeline.confirm()
    self_audit(run, config, tests)


@pytest.mark.parametrize("cache_bytes", [2**30, 8 * 80 * 80 * 3])
def test_an_image_is_fetched_at_most_twice_unless_the_cache_is_too_small(
    remote_folder, phantoms, settings, begin_pipeline, fetches, tmp_path, cache_bytes, no_prefect
):
    remote_folder.fs.put(str(phantoms), remote_folder.path, recursive=True)
    sections = {"bottleneck": {"steps": 2}, "confirm": {"self_audit": 1}, "run": {"cache_bytes": cache_bytes}}
    pipeline = begin_pipeline(settings(str(remote_folder), tmp_path / "lake", **sections))
    audit(pipeline)
    reads, images = count_reads(pipeline.run), len(list(phantoms.glob("*.png")))
    assert len(fetches) == images == 40
    assert sum(fetches.values()) == images + reads  # once by ingest, and every further read is counted
    if cache_bytes == 2**30:
        assert set(fetches.values()) == {2}
    else:
        assert max(fetches.values()) > 2
    clear_images(pipeline.run)
    assert count_reads(pipeline.run) == 0
