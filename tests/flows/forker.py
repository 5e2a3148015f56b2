"""Audits in processes that can be killed: imports and model are loaded once, and each audit is a fork.

The first line of standard input is a configuration as JSON, whose model is loaded. Each further line is an audit:
{"config", "resume", "die_at", "file_bytes"}. The output is "pid N", then "ended S" with the status of waitpid, preceded
by "events N" unless the audit was killed.
"""

import errno
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import great_expectations  # noqa: F401  # imported once, before the forks: it takes seconds
import pytest
import torch

from flows import audit as flow
from flows import fan_out, lifecycle
from flows.config import parse
from flows.engines import Engine
from tasks import corpus_parts
from tasks.execution import is_storage_full
from tasks.inputs import load_model

sys.path.insert(0, str(Path(__file__).resolve().parent))
from conftest import disable_prefect

WRITES = {"open", "os.rename", "os.mkdir", "os.remove", "os.truncate", "shutil.copyfile"}


def write_line(word, number):
    os.write(1, f"{word} {number}\n".encode())


def run_sequentially(run, shards, engine, plan):
    results = []
    for shard in shards:
        try:
            results.append(fan_out.attribute(run, shard, engine.inputs[0], plan))
        except RuntimeError as error:
            results.append(fan_out.quarantine_shard(run, shard, error))
    return results


def run_parts_sequentially(_engine, task, run, plan, parts):
    done = list(parts)
    for part in done:
        task(run, plan, part)
    return done


def audit(order):
    events = 0
    lake = str(order["config"]["lake"]["path"])

    def count(event, arguments):
        """Count the events that touch the lake, and kill the process before event number `die_at`."""
        nonlocal events
        if event in WRITES and any(str(argument).startswith(lake) for argument in arguments[:2]):
            events += 1
            if events == order.get("die_at"):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    if order.get("file_bytes"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], resource.RLIM_INFINITY))
    try:
        flow.audit.fn(parse(order["config"], "test"), order.get("resume"))
    except OSError as error:
        return errno.ENOSPC if is_storage_full(error) else 1
    finally:
        write_line("events", events)
    return 0


def main():
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        disable_prefect(patch)
        patch.setattr(flow, "fan_out", run_sequentially)
        patch.setattr(Engine, "run_parts", run_parts_sequentially)
        patch.setattr(corpus_parts, "ROWS_PER_PART", 10)
        patch.setattr(lifecycle, "_write_report", lambda *_: None)  # takes as long as all other stages
        order = json.loads(sys.stdin.readline())
        load_model(parse(order["config"], "test").models()[0])
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                try:
                    code = audit(json.loads(line))
                except BaseException:  # noqa: BLE001  # a forked child must exit, whatever happens
                    traceback.print_exc()
                    code = 1
                os._exit(code)
            write_line("pid", child)
            write_line("ended", os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
