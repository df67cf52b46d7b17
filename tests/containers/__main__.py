"""``make test-containers``: the tests that use Kafka, on a container, and those of the images."""

import argparse
import os
import subprocess
import sys

from tests.containers import images
from tests.containers.docker import Unavailable, daemon

_ON_A_CONTAINER = (
    "tests/integration",
    "--ignore=tests/integration/test_benchmarks.py",  # they measure, whatever the broker runs in
    "tests/contract",
    # of the faults those between workers and broker
    "tests/faults/test_workers.py",
    "tests/faults/test_transactions.py",
    "tests/faults/test_failpoints.py",
)
_LOG = images.ROOT / "build" / "dockerd.log"


def main() -> int:
    """Gives the exit status: 0 when all passed, 3 when there is no Docker."""
    parser = argparse.ArgumentParser(prog="python -m tests.containers", description=__doc__)
    parser.add_argument(
        "--if-possible", action="store_true", help="exit with 0 where there is no Docker"
    )
    given = parser.parse_args()
    try:
        with daemon(_LOG):
            image = images.kafka()
            print(f"Kafka runs in {image}.", flush=True)
            return _run(image)
    except Unavailable as error:
        print(f"tests in containers: not run: {error}", file=sys.stderr)
        return 0 if given.if_possible else 3


def _run(image: str) -> int:
    os.environ["PRESSROOM_KAFKA_IMAGE"] = image
    suites = (
        [*_ON_A_CONTAINER, "--kafka=container", "--only-kafka"],
        ["tests/containers", "-m", "containers", "--numprocesses=0"],
    )
    pytest = [sys.executable, "-m", "pytest"]
    statuses = [subprocess.call([*pytest, *suite], cwd=images.ROOT) for suite in suites]
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
