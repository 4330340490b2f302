"""Lightning strategies that make a Trainer a federated participant."""
