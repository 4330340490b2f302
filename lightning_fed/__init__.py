"""Federated training for PyTorch Lightning."""
