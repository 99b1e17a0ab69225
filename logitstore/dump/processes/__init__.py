"""Several processes of one machine that write the parts of one command."""
