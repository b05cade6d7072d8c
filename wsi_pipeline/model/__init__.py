"""What a network is: its architecture, its weights, and the bundle that carries both."""
