"""DRAM: traces, the bank-state timing core, and what a controller makes of both."""
