"""What Opsin is compared with: each serving framework as a good user of it would set it up.

All answer the same question from the same SavedModel in float32, decode the same JPEG bodies with
the same lines (`network`), and run with their batching on, tuned by their own documentation. Each
file is a whole server and imports nothing of Opsin, for it runs in the benchmark's own
environment (`benchmarks/requirements-peers.txt`). The environment variables ``PEER_…`` say what
to serve and where.
"""
