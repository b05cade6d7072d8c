"""TIFF, by far the most common format: checked, coloured and decoded here."""
