"""Benchmarks: each measures Opsin and a plain baseline in the same run.

A folder for each subject. `load` sends requests for several of them; what else they share lies
beside the folders. The docstring of a module says how it is run.
"""
