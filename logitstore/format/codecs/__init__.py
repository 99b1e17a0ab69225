"""Value codecs turn values into bytes of fixed width and back. Each file holds one codec.

`encode` takes and returns NumPy arrays. `decode` takes an array of NumPy or torch, and returns one of the same library on the
same device. So packed bytes can be copied to a GPU before they are widened. Nothing here imports torch.
"""
