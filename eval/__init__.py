"""Is it true? Every claim of this project as a command that anyone can rerun."""
