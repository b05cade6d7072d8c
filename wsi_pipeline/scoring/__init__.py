"""One slide's whole way, from its file to its folder of results."""
