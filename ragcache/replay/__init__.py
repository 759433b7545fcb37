"""What would it have done? A workload sent at its times through the service, live or in virtual time."""
