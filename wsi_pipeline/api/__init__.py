"""What a notebook or a script works with; `wsi_pipeline` itself hands out its names."""
