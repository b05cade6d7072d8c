"""A slide's file becomes pixels: formats, pyramids, pixel sizes, colours, readers."""
