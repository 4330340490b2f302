"""Pure numbers: named tensors and the flat vectors that travel."""
