"""What the two halves of the connector, and the service in front, say to each other."""
