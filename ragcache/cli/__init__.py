"""How is it put together? The command line: one table of commands, a file a command."""
