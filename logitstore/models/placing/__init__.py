"""Teachers that are spread over several devices, over the disk or over processes, and those whose weights are packed."""
