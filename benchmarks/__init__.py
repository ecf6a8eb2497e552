"""Benchmarks: each measures Opsin and a plain baseline in the same run."""
