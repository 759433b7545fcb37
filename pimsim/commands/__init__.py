"""The commands of `pimsim`, a file each: `add_parser` describes a command, `run` carries it out."""
