"""Teachers: the models that answer, with their logits and features."""
