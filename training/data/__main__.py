"""``python -m training.data check ROOT``: look at labelled data before hours are spent on it."""

from training.data.check import main

main()
