"""The tumour bed: outlined by a person or proposed by the map, and what it amounts to."""
