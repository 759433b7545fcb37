"""Messages between the connector's scheduler side, its worker sides, and the service in front."""
