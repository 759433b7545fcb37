"""What the commands of eval share."""
