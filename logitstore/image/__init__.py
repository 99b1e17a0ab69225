"""The task of images, as a plug-in: what a view of an image is on disk, for a teacher, for a student and for people."""
