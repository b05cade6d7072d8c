"""All slides of an inbox, in one night, whatever happens to single ones."""
