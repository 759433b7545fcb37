"""What if memory computed? The simulator of HBM-PIM and DIMM-PIM; it imports no other package of this project."""
