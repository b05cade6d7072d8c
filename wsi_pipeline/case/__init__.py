"""A patient's case: several slides, what a pathologist entered, and the residual cancer burden."""
