"""Benchmarks: fastlayer against its plain-Python baseline and against the peers, in one run.

``python -m bench`` makes the workloads, runs pytest-benchmark over this folder and writes
``bench/results/<name>.json`` and the table ``bench/results/README.md``.
"""
