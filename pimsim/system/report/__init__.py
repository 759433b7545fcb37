"""The result of a run: times, energy by part, standby power, area and price."""
