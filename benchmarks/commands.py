"""The parts that the command lines of the benchmarks share."""

import argparse
import time


def create_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `python -m benchmarks.NAME`, whose help shows the module's docstring as written."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_processor_time(parser: argparse.ArgumentParser) -> None:
    """Add the option to measure processor time instead of wall time."""
    parser.add_argument(
        "--processor-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        default=time.perf_counter,
        help="measure processor time, for a machine with other work; set OMP_NUM_THREADS=1",
    )
