"""Calibration of the match threshold on labelled faces, with confidence intervals."""
