"""Published weights and sample images: where they come from, and fetching them."""
