"""How a bundle is run: the device, the precision, and the library behind them."""
