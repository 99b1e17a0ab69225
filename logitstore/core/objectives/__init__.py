"""What the table of objectives says of whole families of them."""
