"""``python -m streams.cli``: the same as ``pressroom``."""

from streams.cli import main

main()
