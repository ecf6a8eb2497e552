"""The serving frameworks that Opsin is compared with, each as an experienced user would set it up.

All of them serve the same SavedModel in float32, decode JPEG files with the same code (`network`)
and use batching, tuned as their documentation recommends. Each file is a complete server and
imports nothing of Opsin, because it runs in its own environment
(`benchmarks/requirements-peers.txt`). Environment variables ``PEER_…`` configure it.
"""
