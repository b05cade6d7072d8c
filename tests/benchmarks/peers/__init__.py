"""Ours against its peers: the same slide, the same weights, one run.

python -m tests.benchmarks.peers [--quick]

Each peer has an environment of its own (`environments`), a script that runs inside it
(`run_wsinfer`, `run_tiatoolbox`, `run_lazyslide`, `run_plain`), and is told what to do by a `Task`.
docs/benchmark.md says what is compared, what was stubbed and what is not comparable.
"""
