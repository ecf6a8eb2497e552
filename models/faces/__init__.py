"""Face recognition: detection, alignment, embeddings, enrollment, liveness and calibration."""
