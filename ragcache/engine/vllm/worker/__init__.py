"""The worker's half of the connector: moves blocks of KV."""
