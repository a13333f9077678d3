"""What a model weighs in a format, what its cache and its forward take: serving and training. Pure records."""
