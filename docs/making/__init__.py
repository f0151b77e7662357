"""What builds the pages that are made from the code: names by wing, cards, equations."""
