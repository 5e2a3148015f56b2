"""The readers' benchmark reads all formats, counts only waiting as waiting, and measures this process's own memory."""

from pathlib import Path

import pytest

from benchmarks import readers
from benchmarks.corpus_writers import WRITERS, generate_source_pairs
from benchmarks.readers import Waits, decoder_shares, demo_line, own_peak


def test_each_format_is_held_against_the_bare_decoder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readers, "ROUNDS", 1)
    shares = decoder_shares(generate_source_pairs(6, 32), tmp_path)
    assert shares.keys() == WRITERS.keys()
    assert all(found.keys() == {"decoder_share", "processor_share"} for found in shares.values())
    assert all(share > 0.0 for found in shares.values() for share in found.values())
    assert len(capsys.readouterr().out.splitlines()) == len(WRITERS)


def test_the_bare_decoder_decodes(tmp_path):
    (tmp_path / "whole.jpeg").write_bytes(generate_source_pairs(1, 64)[0].data)
    (tmp_path / "cut.jpeg").write_bytes(generate_source_pairs(1, 64)[0].data[:-200])
    readers._bare([tmp_path / "whole.jpeg"])
    with pytest.raises(OSError, match="truncated"):
        readers._bare([tmp_path / "whole.jpeg", tmp_path / "cut.jpeg"])


@pytest.mark.parametrize("work", [readers._read, readers._ingest])
def test_pairs_that_are_lost_stop_the_benchmark(tmp_path, work):
    root = WRITERS["webdataset"](generate_source_pairs(6, 32, "PNG"), tmp_path / "tars")
    work(root, 6)
    with pytest.raises(RuntimeError, match="got 6 pairs, expected 7"):
        work(root, 7)


def test_only_waiting_counts_as_waiting(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(readers.time, "perf_counter", lambda: now[0])

    def slow():
        for item in range(3):
            now[0] += 2.0
            yield item

    waits, taken = Waits(), []
    for item in waits.timed(slow()):
        taken.append(item)
        now[0] += 10.0
    assert taken == [0, 1, 2]
    assert waits.seconds == 6.0


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is told by Linux")
def test_the_peak_is_at_least_what_is_there_now():
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    assert resident // 2 < own_peak() < 2**40


@pytest.mark.slow
def test_the_demo_s_line_is_timed_stage_by_stage(tmp_path):
    line = demo_line(tmp_path, 24)
    assert line.keys() == {"ingest", "calibrate", "attribute", "waited"}
    assert all(seconds > 0.0 for seconds in line.values())
    assert line["waited"] < line["attribute"]
