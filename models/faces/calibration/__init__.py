"""Calibration of the match threshold on labeled faces, with confidence intervals."""
