"""Programs as sources: what one writes, as it does."""
