"""What a person gets: the map, the overlay, the tiles' table, the summary."""
