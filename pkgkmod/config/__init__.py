"""The project file: layers, mistakes with their places, showing and writing."""
