"""Faces at the door: found in pictures, compared with those who are known, let in or not."""
