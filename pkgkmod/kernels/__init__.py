"""Where kernel build trees come from, and the compilers that fit them."""
