"""GPU slots: Prefect's global concurrency limits, one per device, so that several flows share a GPU in turn."""

import contextlib
from collections.abc import Iterator, Sequence

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from tasks.errors import BadInputError
from tasks.settings import ModelConfig


def limit_name(prefix: str, device: str) -> str:
    """Return the name of a device's limit, such as `prefix-cuda-0`. The prefix distinguishes hosts."""
    name = "cuda:0" if device == "cuda" else device
    return f"{prefix}-{name.replace(':', '-')}"


def find_limits(prefix: str | None, models: Sequence[ModelConfig]) -> list[str]:
    """Return the names of the limits of the models' devices; none without a prefix.

    A CPU may have a limit, a GPU must have one.

    Raises:
        BadInputError: A GPU has no limit in Prefect.
    """
    if prefix is None:
        return []
    found, missing = [], []
    with get_client(sync_client=True) as client:
        for model in models:
            name = limit_name(prefix, model.device)
            try:
                client.read_global_concurrency_limit_by_name(name)
                found.append(name)
            except ObjectNotFound:
                if model.device != "cpu":
                    missing.append(name)
    if missing:
        create = "; ".join(f"prefect gcl create {name} --limit 1" for name in missing)
        raise BadInputError(
            f"[run] gpu_limit: got {prefix!r}, but Prefect has no limit {', '.join(missing)}, expected one for each "
            f"GPU; create it with: {create}"
        )
    return found


@contextlib.contextmanager
def acquire_slots(names: Sequence[str]) -> Iterator[None]:
    """Wait until every limit has a free slot, and occupy them while the block runs.

    Slots of a killed process become free after some minutes. If the server stops answering meanwhile, the audit
    continues, and another one may use the device at the same time.
    """
    if not names:
        yield
        return
    with concurrency(list(names), occupy=1, strict=True, raise_on_lease_renewal_failure=False):
        yield
