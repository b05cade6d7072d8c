"""The two libraries that decode slides, behind one face, and the choice between them."""
