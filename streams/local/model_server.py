"""The program that serves the model; run as a file, by :mod:`streams.local.model`.

It serves until it is told to end by a signal: nothing it holds outlives a request, so the signals'
default, to end at once, is right.
"""

import argparse
import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xllamacpp

SLOTS = 8
"""Requests that are decoded together."""

CONTEXT = 4096
"""Tokens of prompt and completion together, per request."""


def parameters(weights: str, name: str, port: int) -> "xllamacpp.CommonParams":
    """What is served, where and how."""
    import xllamacpp

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = xllamacpp.CommonParams()
    wanted.model.path = weights
    wanted.model_alias = {name}
    wanted.hostnames, wanted.port = ["127.0.0.1"], port
    wanted.n_parallel, wanted.n_ctx = SLOTS, SLOTS * CONTEXT
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads or 1
    wanted.n_gpu_layers = 0
    wanted.cont_batching = wanted.cache_prompt = True
    # what a slot held goes to memory when another prompt takes the slot, and comes back with it:
    # the stages' system prompts stay evaluated though there are fewer slots than prompts
    wanted.cache_ram_mib = 512
    wanted.endpoint_metrics, wanted.endpoint_slots, wanted.ui = True, False, False
    wanted.cors_origins, wanted.cors_credentials = "", False
    wanted.verbosity = 2  # warnings
    return wanted


def main() -> None:
    """Serves until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True, help="whose server it is; only shown by ps")
    parser.add_argument("--weights", required=True, help="a GGUF file")
    parser.add_argument("--name", required=True, help="the model's name for clients")
    parser.add_argument("--port", required=True, type=int)
    given = parser.parse_args()

    import xllamacpp

    server = xllamacpp.Server(parameters(given.weights, given.name, given.port))
    sys.stdout.write(f"serving {given.name} at {server.listening_address}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
