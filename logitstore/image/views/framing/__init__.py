"""Frame a picture: choose the part of it that a view shows, and resize it to the size of the view."""
