"""What a student does on each sample. `samples.py` measures it; `logitstore/store/index/figures.py` keeps it in a file."""
