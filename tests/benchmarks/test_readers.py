"""The benchmark compares all readers, measures only the time that the consumer waits, and reads peak memory."""

from pathlib import Path

import pytest

from benchmarks import readers
from benchmarks.corpus_writers import WRITERS, generate_source_pairs
from benchmarks.readers import WaitTimer, measure_decoder_shares, read_peak_memory, time_demo_stages


def test_each_format_is_compared_with_the_bare_decoder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readers, "ROUNDS", 1)
    shares = measure_decoder_shares(generate_source_pairs(6, 32), tmp_path)
    assert shares.keys() == WRITERS.keys()
    assert all(shares_of_format.keys() == {"decoder_share", "processor_share"} for shares_of_format in shares.values())
    assert all(share > 0.0 for shares_of_format in shares.values() for share in shares_of_format.values())
    assert len(capsys.readouterr().out.splitlines()) == len(WRITERS)


def test_ingest_of_a_further_pair_is_measured_without_what_each_run_takes(tmp_path, monkeypatch):
    seconds = iter([[0.0, 9.0], [0.0, 5.0]] * len(WRITERS))
    monkeypatch.setattr(readers, "ROUNDS", 1)
    monkeypatch.setattr(readers, "_measure", lambda work: work() or next(seconds))
    times = readers.measure_ingest(generate_source_pairs(10, 16), tmp_path)
    assert times == dict.fromkeys(WRITERS, 500.0)  # (9 - 5) s for 8 further pairs


def test_the_bare_decoder_decodes_whole_images(tmp_path):
    (tmp_path / "whole.jpeg").write_bytes(generate_source_pairs(1, 64)[0].data)
    (tmp_path / "cut.jpeg").write_bytes(generate_source_pairs(1, 64)[0].data[:-200])
    readers._decode_all([tmp_path / "whole.jpeg"])
    with pytest.raises(OSError, match="truncated"):
        readers._decode_all([tmp_path / "whole.jpeg", tmp_path / "cut.jpeg"])


@pytest.mark.parametrize("work", [readers._read, readers._ingest])
def test_missing_pairs_stop_the_benchmark(tmp_path, work):
    root = WRITERS["webdataset"](generate_source_pairs(6, 32, "PNG"), tmp_path / "tars")
    work(root, 6)
    with pytest.raises(RuntimeError, match="got 6 pairs, expected 7"):
        work(root, 7)


def test_only_waiting_is_measured(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(readers.time, "perf_counter", lambda: now[0])

    def slow():
        for item in range(3):
            now[0] += 2.0
            yield item

    timer, received = WaitTimer(), []
    for item in timer.measure(slow()):
        received.append(item)
        now[0] += 10.0
    assert received == [0, 1, 2]
    assert timer.seconds == 6.0


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux reports the peak")
def test_the_peak_is_at_least_the_present_memory():
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    assert resident // 2 < read_peak_memory() < 2**40


@pytest.mark.slow
def test_the_stages_of_the_demo_are_timed(tmp_path):
    stages = time_demo_stages(tmp_path, 24)
    assert stages.keys() == {"ingest", "calibrate", "attribute", "waited"}
    assert all(seconds > 0.0 for seconds in stages.values())
    assert stages["waited"] < stages["attribute"]
