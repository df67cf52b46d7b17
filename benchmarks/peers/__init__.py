"""The same small tasks, written for each system as its documentation recommends, one file each.

Each is a program that runs in ``.venv-peers`` (Pressroom and the hand-written loop: in ``.venv``) until
it is stopped; :mod:`benchmarks.systems` starts them and :mod:`benchmarks.measure` looks at what they do
from outside.
"""
