"""A site's side of Lightning: what drives its rounds inside a Trainer."""
