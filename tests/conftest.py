import torch

# The tests' models are small: on a machine that does other work, too, threads mostly wait for each other.
torch.set_num_threads(1)
