"""The OpenVINO runtime, and how it reads and differentiates our SavedModels."""
