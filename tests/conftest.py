"""Fixtures of all tests: shapes are checked, torch uses one thread, and a lake can be filled by hand."""

import contextlib
import hashlib
import itertools
import shutil
import sys
import tomllib
import typing
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import distribution
from pathlib import Path

import jaxtyping
import pytest
from beartype import beartype


def check_shapes(function):
    """Apply beartype, after making protocols runtime-checkable, which it requires."""
    for hint in getattr(function, "__annotations__", {}).values():
        if isinstance(hint, type) and getattr(hint, "_is_protocol", False):
            typing.runtime_checkable(hint)
    return beartype(function)


# The annotations of m2ib hold while it is tested. The hook takes the checker by name, and must come before the first
# import of m2ib.
sys.modules["shape_checks"] = sys.modules[__name__]
jaxtyping.install_import_hook(
    [f"m2ib.{name}" for name in ("analysis", "attribution", "bottleneck", "encoders", "noise", "statistics")],
    "shape_checks.check_shapes",
)

import torch  # noqa: E402  # after the hook

# The models of the tests are so small that threads wait for each other more than they compute: on two busy cores a
# second thread makes the whole session several times slower. Also makes sums come out alike on every machine.
torch.set_num_threads(1)

import sql  # noqa: E402  # after the hook
from tasks.lake.run import Run  # noqa: E402  # after the hook


def pytest_configure():
    """Refuse to run with an installation that lacks entry points of pyproject.toml: it is older than the code."""
    groups = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["entry-points"]
    declared = {(group, name) for group, entries in groups.items() for name in entries}
    installed = {(entry.group, entry.name) for entry in distribution("m2ib-audit").entry_points}
    if missing := declared - installed:
        names = ", ".join(name for _, name in sorted(missing))
        raise pytest.UsageError(f"not installed: {names}; run make test, or install this package again")


FACTS = {
    "model": "m", "model_digest": "d", "corpus": "c", "corpus_digest": "e", "config": {"b": 1, "a": 2},
    "config_digest": "f", "seed": 0, "code_version": "v", "environment": {}, "rules": {},
}  # fmt: skip
FULL_VIEW = {"view_x0": 0.0, "view_y0": 0.0, "view_x1": 1.0, "view_y1": 1.0}


def pair_id_of(number):
    return f"pair-{number:04d}"


class RecordedRun(Run):
    """A run whose end is recorded in the ledger, as an audit does."""

    def finish(self, *arguments, **facts):
        from tasks.lake.journal import record_run_end

        super().finish(*arguments, **facts)
        record_run_end(self)


class HandWrittenRun(Run):
    """A run whose rows are given by hand, for tests of what comes after them."""

    def begin(self, **facts):
        self.create({**FACTS, **facts})
        return self

    def add_pairs(self, captions, attributes=None):
        """Add a pair for each caption; attributes: one dictionary for each, by default none."""
        rows = [
            {
                "pair_id": pair_id_of(number), "row_number": number, "file_name": f"{number}.png", "caption": caption,
                "image_sha256": hashlib.sha256(str(number).encode()).hexdigest(), "width": 80, "height": 80,
                "attributes": list((attributes[number] if attributes else {}).items()),
            }
            for number, caption in enumerate(captions)
        ]  # fmt: skip
        self.write_table("pairs", rows)
        self.update(counts={"corpus_rows": len(rows), "pairs": len(rows)})
        return rows

    def add_attributions(self, maps, grid, **columns):
        """Add an attribution for each map (row by row over a grid of height x width); None leaves the pair out.

        columns: values of further columns, the same for all rows.
        """
        rows = [
            {
                "pair_id": pair_id_of(number), "caption": "", "cosine": 0.5, "grid_h": grid[0], "grid_w": grid[1],
                "image_map": [float(nats) for nats in image_map], "image_nats": float(sum(image_map)),
                "image_special_nats": 0.0, "image_cosine": 0.4, "tokens": ["<start>", "a", "<end>"],
                "special": [True, False, True], "text_map": [0.0, 2.0, 1.0], "text_nats": 3.0, "text_cosine": 0.4,
                **FULL_VIEW, **columns,
            }
            for number, image_map in enumerate(maps) if image_map is not None
        ]  # fmt: skip
        self.write_table("attributions", rows)
        self.update(counts={"attributions": len(rows)})
        return rows

    def add_regions(self, *boxes, kind="box"):
        """Add regions as (name, box) for all pairs, or (name, box, pair_id) for one."""
        self.write_table(
            "regions",
            [
                {
                    "region": name, "kind": kind, "pair_id": pair_id[0] if pair_id else None,
                    **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
                }
                for name, box, *pair_id in boxes
            ],
        )  # fmt: skip

    def add_shares(self, region, shares, area=0.1):
        """Add the shares of one region, one for each pair; nats are those of a map of ten nats."""
        self.write_table(
            "region_shares",
            [
                {
                    "pair_id": pair_id_of(number), "side": "image", "region": region, "share": share, "area": area,
                    "nats": None if share is None else share * 10,
                }
                for number, share in enumerate(shares)
            ],
        )  # fmt: skip

    def add_alerts(self, *alerts):
        """Alerts, given by the columns that differ from the defaults, with their findings; `interval` adds a test.

        interval: lower bound, effect and upper bound of the score, for a margin of one.
        """
        defaults = {
            "region": "corner", "slice_kind": "word", "slice": "consolidation", "rule": "region_mass", "n": 4,
            "share": 0.3, "area": 0.1, "effect": 3.0, "state": "suspected", "severity": None, "explained_by": None,
        }  # fmt: skip
        digests = self.read_manifest()["rules"]
        rows = []
        for number, given in enumerate(alerts):
            row = defaults | given
            identity = {
                "side": "text" if row["region"].startswith('"') else "image",
                "alert_id": f"{self.run_id}-{number}",
            }
            rows.append(row | identity | {"rule_digest": digests.get(row["rule"])})
        stored = {name: sql.schema(name).names for name in ("findings", "alerts", "confirmations")}
        stored["findings"].remove("reliance")  # there, what is tested
        for table in ("findings", "alerts"):
            self.write_table(table, [{key: row[key] for key in row if key in stored[table]} for row in rows])
        tests = [
            {key: row[key] for key in ("rule", "region", "slice_kind", "slice")}
            | {
                "fill": "mean",
                "n": 64,
                "floor": 0.0,
                "margin": 1.0,
                "confirmed": row["state"] == "confirmed",
                "passed": True,
            }
            | dict(zip(("low", "effect", "high"), row["interval"], strict=True))
            for row in rows
            if "interval" in row
        ]
        self.write_table("confirmations", tests)
        self.update(counts={"alerts": len(rows)})


@pytest.fixture
def lake(tmp_path):
    """An empty lake whose path contains a blank and a quote."""
    folder = tmp_path / "the reader's lake"
    folder.mkdir()
    return folder


@pytest.fixture
def remote_folder():
    """A folder in the in-memory file system of fsspec, which does not exist yet."""
    from upath import UPath

    root = UPath(f"memory://{uuid.uuid4().hex}")
    yield root
    if root.fs.exists(root.path):
        root.fs.rm(root.path, recursive=True)


@pytest.fixture
def downloads(monkeypatch):
    """The names of objects that were downloaded from `remote_folder`; relative to the runs, for files of a run."""
    from fsspec.implementations.memory import MemoryFileSystem

    names, get = [], MemoryFileSystem.get_file

    def spy(self, path, *others, **named):
        names.append(path.rpartition("/runs/")[2])
        return get(self, path, *others, **named)

    monkeypatch.setattr(MemoryFileSystem, "get_file", spy)
    return names


@pytest.fixture(scope="session")
def run_class():
    """The class `HandWrittenRun`: run_class(lake, run_id).begin() is a run to be filled by hand."""
    return HandWrittenRun


@pytest.fixture
def hand_written_run(lake):
    """A run that has begun, to be filled by hand."""
    return HandWrittenRun(lake, "20260101T000000-aaaaaa").begin()


@pytest.fixture
def add_next_run(tmp_path, make_add_next_run):
    """add_next_run(alerts..., status=, lake=, **facts): the next run of an audit, with alerts and their history."""
    folder = tmp_path / "the series' lake"
    folder.mkdir()
    return make_add_next_run(folder)


@pytest.fixture(scope="session")
def make_add_next_run():
    """Function that returns `add_next_run` for a lake that outlives a test."""
    return _make_add_next_run


def _make_add_next_run(folder):
    numbers, made = itertools.count(1), {}

    def run(*alerts, status="completed", lake=folder, **facts):
        new_run = HandWrittenRun(lake, f"202601{next(numbers):02d}T000000-aaaaaa")
        new_run.begin(**({"rules": {"region_mass": "r"}} | facts))
        new_run.add_pairs(["a consolidation"] * 4)
        new_run.add_attributions([[1.0] * 4] * 4, (2, 2))
        new_run.add_regions(*((name, (0, 0, 0.5, 0.5)) for name in sorted({a.get("region", "corner") for a in alerts})))
        new_run.add_alerts(*alerts)
        series = _store_history(new_run, made, repr((new_run.run_id, alerts, sorted(facts.items()))))
        new_run.finish(status)
        made[lake, new_run.run_id] = series, _read_files(new_run)
        return new_run

    run.lake, run.numbers = folder, numbers
    return run


_histories = {}


def _store_history(run, made, call):
    """Store the alert history of a run; returns what it depends on, apart from times.

    To plan the query takes longer than all else of a small run. So it is computed once for each series of runs that
    were made by the same calls and have not been changed since; the times are those of the runs.
    """
    from tasks import notify

    earlier = sorted(path.name for path in (run.lake / "runs").iterdir() if path.name != run.run_id)
    known = [made.get((run.lake, run_id)) for run_id in earlier]
    if not all(
        each and each[1] == _read_files(type(run)(run.lake, name)) for each, name in zip(known, earlier, strict=True)
    ):
        notify.store_alert_history(run, 3)
        return uuid.uuid4().hex
    series = (call, *(each[0] for each in known), *notify._find_neighbors(run)[0])
    if series not in _histories:
        _histories[series] = notify.store_alert_history(run, 3)
        return series
    runs = {run_id: HandWrittenRun(run.lake, run_id).read_manifest()["started_at"] for run_id in (*earlier, run.run_id)}
    times = {run_id: datetime.fromisoformat(text) for run_id, text in runs.items()}
    rows = [
        row | {"first_seen": times[row["first_run"]], "last_seen": times[row["last_run"]]} for row in _histories[series]
    ]
    run.write_table("lives", rows)
    return series


def _read_files(run):
    """The contents of a run's tables, and its manifest without what is added when the run has ended."""
    manifest = {key: value for key, value in run.read_manifest().items() if key not in ("chained", "finished_at")}
    return {path.name: path.read_bytes() for path in run.folder.rglob("*.parquet")} | {"manifest": manifest}


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Forty phantom pairs, some of which show a consolidation with the planted tag."""
    from demo.corpus import generate

    return generate(tmp_path_factory.mktemp("phantoms"), pairs=40)


@pytest.fixture(scope="session")
def settings():
    """A configuration of a small audit: settings(corpus, folder of the lake, bottleneck={...}, ...)."""

    def build(corpus, folder, architecture="demo/shortcut", **sections):
        data = {
            "corpus": {"path": corpus},
            "model": {"architecture": architecture, "device": "cpu"},
            "lake": {"path": folder, "shard_size": 16},
            "alerts": {"min_pairs": 5},
        }
        for name, section in sections.items():
            data[name] = data.get(name, {}) | section
        from flows.config import parse

        return parse(data, "test")

    return build


@dataclass(frozen=True)
class Pipeline:
    """The stages of the audit, one after the other, without Prefect."""

    run: Run
    config: object

    def ingest(self):
        from tasks.ingest import ingest

        config = self.config
        settings = config.regions.columns, config.lake.shard_size, config.seed, config.regions.detectors
        return ingest.fn(self.run, config.corpus, *settings)

    @property
    def plan(self):
        return self.config.attribution_plan(self.run.read_manifest())

    def attribute(self, shard):
        from tasks.attribute import attribute_pairs

        return attribute_pairs(self.run, shard, self.config.inputs()[0], self.plan)

    def calibrate(self):
        from tasks.attribute import calibrate_features

        return calibrate_features(self.run, self.config.inputs()[0], self.plan)

    def store(self, results):
        from tasks.store import store

        return store.fn(self.run, results, self.config.regions, self.config.mask_boxes)

    def to_lake(self):
        """Ingest, attribute and store."""
        results = [self.attribute(shard) for shard in self.ingest()]
        self.store(results)
        return results

    def confirm(self):
        from tasks.confirm import confirm
        from tasks.interventions.samples import InterventionPlan

        config = self.config
        settings = config.confirm, config.alerts.min_pairs, config.seed
        return confirm.fn(self.run, InterventionPlan(config.inputs()[0], *settings))

    def discover(self):
        from tasks.discover import DiscoveryPlan, discover

        config = self.config
        return discover.fn(self.run, DiscoveryPlan(config.inputs()[0], config.discover, config.seed))

    def cluster(self):
        from tasks.cluster import cluster

        return cluster.fn(self.run, self.config.alerts.min_pairs, self.config.seed)

    def to_alerts(self):
        """Flag, confirm and alert what is in the lake; returns the alerts that stand on their own."""
        from tasks.alert import alert
        from tasks.flag import flag

        flag.fn(self.run, self.config.alerts, self.config.custom_rules)
        self.confirm()
        return alert.fn(self.run, self.config.alerts)


@pytest.fixture(scope="session")
def begin_pipeline():
    """Begin a run: begin_pipeline(config) -> Pipeline."""

    def start(config):
        from flows.begin import begin

        run = begin(config, config.models(), None)
        return Pipeline(RecordedRun(run.lake, run.run_id), config)

    return start


@pytest.fixture(scope="session")
def shared_phantom_audit(tmp_path_factory, phantoms, settings, begin_pipeline):
    """The phantoms in the lake, with the shortcut model. Not to be changed: `phantom_audit` is a copy."""
    pipeline = begin_pipeline(settings(phantoms, tmp_path_factory.mktemp("audited") / "lake"))
    pipeline.to_lake()
    return pipeline


@pytest.fixture
def phantom_audit(shared_phantom_audit, tmp_path):
    """A copy of the audited phantoms that a test may change."""
    copy = tmp_path / "copied lake"
    shutil.copytree(shared_phantom_audit.run.lake, copy)
    config = shared_phantom_audit.config
    config = config.model_copy(update={"lake": config.lake.model_copy(update={"path": copy})})
    return Pipeline(RecordedRun(copy, shared_phantom_audit.run.run_id), config)


@pytest.fixture
def rewrite_rows():
    """rewrite_rows(run, table, change): rewrite the rows of a stored table and list the file again."""

    def rewrite(run, table, change):
        import pyarrow.parquet as pq

        files = run.fetch_files(table)
        rows = [row for path in files for row in pq.read_table(path).to_pylist()]
        for path in files[1:]:
            path.unlink()
        record = run.read_manifest()
        other_files = [entry for entry in record["files"] if entry["table"] != table]
        run.update(files=other_files)
        with contextlib.suppress(FileNotFoundError):
            files[0].unlink()
        run.write_table(table, change(rows))

    return rewrite


@dataclass(frozen=True)
class Store:
    """An S3 server of this process with one bucket, and the method and path of every request that it received."""

    bucket: str = "corpora"
    requests: list = field(default_factory=list)

    def put(self, folder):
        """Upload a folder; returns its URL."""
        import boto3

        client = boto3.client("s3")
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{folder.name}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())
        client.close()
        self.requests.clear()
        return f"s3://{self.bucket}/{folder.name}"

    def list_requests(self, method):
        """The paths of the requests of one method, since the last upload."""
        return [path for kind, path in self.requests if kind == method]


@pytest.fixture(scope="session")
def s3():
    """A `Store`, with its address and credentials where the drivers look for them: in the environment."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication
    from moto.server import ThreadedMotoServer

    store = Store()
    call_application = DomainDispatcherApplication.__call__

    def spy(self, environ, start_response):
        store.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return call_application(self, environ, start_response)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DomainDispatcherApplication, "__call__", spy)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "of-a-test",
            "AWS_SECRET_ACCESS_KEY": "of-a-test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": "no-such-file", "AWS_SHARED_CREDENTIALS_FILE": "no-such-file",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket=store.bucket)
        client.close()
        yield store
        server.stop()


@pytest.fixture
def remove_copies():
    """remove_copies(): remove the local copies of this process, as if it were another one."""

    def remove():
        import stores

        for path in stores.scratch_folder().glob("*.copy"):
            path.unlink()

    return remove


@pytest.fixture(scope="session")
def prefect_harness():
    """Flows of this process run under a temporary Prefect until the session ends."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=240):
        yield
