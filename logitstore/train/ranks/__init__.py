"""What the processes that train one student do together: hold its weights in pieces, and end together."""
