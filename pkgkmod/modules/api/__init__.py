"""What changes between two kernels for those who write modules: exports, declarations, and who uses them."""
