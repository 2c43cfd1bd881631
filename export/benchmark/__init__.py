"""Measurement. In: a finished run and its files. Out: benchmark.json, with accuracy, latency, memory and a verdict."""
