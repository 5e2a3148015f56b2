"""Whose turn it is on a GPU: global concurrency limits of Prefect, one a device, held while the model works there."""

import contextlib
from collections.abc import Iterator, Sequence

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from tasks.errors import BadInputError
from tasks.settings import ModelConfig


def limit_name(prefix: str, device: str) -> str:
    """What the limit of a device is called: the prefix, which tells hosts apart, and the device."""
    named = "cuda:0" if device == "cuda" else device
    return f"{prefix}-{named.replace(':', '-')}"


def limits(prefix: str | None, models: Sequence[ModelConfig]) -> list[str]:
    """Names of the limits of the models' devices, all of which are there; none without a prefix.

    A CPU needs none, but one that is there is kept to. Raises BadInputError with what to create for a GPU without one.
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
def slots(names: Sequence[str]) -> Iterator[None]:
    """Hold a slot of each limit at once, waiting until all are free; a killed process's are so after some minutes.

    A server that does not answer for a while ends no audit: what is lost is its turn, not its work.
    """
    if not names:
        yield
        return
    with concurrency(list(names), occupy=1, strict=True, raise_on_lease_renewal_failure=False):
        yield
