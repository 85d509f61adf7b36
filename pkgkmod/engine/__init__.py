"""The engine: what has to be done (plan), and doing it (execute). It knows stages by protocol only."""
