"""Two-stage training: nucleus segmentation, then cellularity guided by it."""
