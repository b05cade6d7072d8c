"""The page that a pathologist opens: one file, without a server or a network."""
