"""Compare students before they are trained: scores without training, and what a short run says of them."""
