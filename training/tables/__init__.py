"""Tables 1 to 6 of the paper for any data, the paper's own figures beside them.

``python -m training.tables --config configs/tables.yaml --data ROOT --out tables``

Trains what the tables need (``runs``), each run in its own folder, and goes on where it was
interrupted: a run that has its result is not trained again. Every figure is measured over whole
sets (``figures``): the pixels of all folds are counted in one matrix, the patches of all folds are
ranked together. Over several seeds a figure is given as mean ± standard deviation.
"""
