"""PimsimError and its family: what a user can mend. Each message says what was wrong, where, and what to do."""


class PimsimError(Exception):
    """The base of all errors that pimsim raises on purpose."""


class FieldError(PimsimError):
    """A file of data (a standard, a device, a table of energies) has a wrong, missing or unknown field."""


class TraceError(PimsimError):
    """A trace or a traversal cannot be read, or names what is not there."""


class WorkloadError(PimsimError):
    """What is to be simulated does not fit the device, or makes no sense."""
