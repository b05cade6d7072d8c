"""Benchmarks: figures as ratios within one run, since machines are shared and noisy.

Each is run by hand, as `python -m tests.benchmarks.NAME`, or all with `make bench`; none is a test.
"""
