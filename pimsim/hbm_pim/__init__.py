"""HBM-PIM: units at the banks of a stack that multiply and add, for attention and other products with vectors."""
