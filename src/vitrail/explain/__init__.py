"""Where in an image a class was read: maps, and how faithful they are."""
