"""What networks hold: claims about beliefs, gates and memories, against exact answers."""
