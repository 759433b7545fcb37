"""DIMM-PIM: AccelDIMM, vector search with the distances computed beside each rank of DDR4 (HeterRAG, section 4.2)."""
