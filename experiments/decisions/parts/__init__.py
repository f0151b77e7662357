"""What several of these experiments share, or one is too long without."""
