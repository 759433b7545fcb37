"""A system and its workload as data, checked: systems/*.yaml, models/*.yaml and what they refer to."""
