"""From values to bytes of fixed stride and back; one value codec a file.

`encode` takes and gives NumPy arrays. `decode` takes an array of NumPy or of torch and gives one of the same library on the
same device, so packed bytes may cross to a GPU before they are widened; nothing here imports torch.
"""
