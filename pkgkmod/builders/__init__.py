"""How a recipe becomes packages: builders describe the commands, stages run them."""
