"""Why a network answers as it does: heatmaps, feature maps, filters, and how far to trust them."""
