"""DIMM-PIM: units at the ranks of DIMMs that compute distances, for the search of a graph."""
