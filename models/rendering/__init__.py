"""Pictures for people: overlays, legends and sheets, with Pillow and numpy alone."""
