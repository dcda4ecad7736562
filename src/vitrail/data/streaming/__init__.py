"""Training sets that are read as they are needed: in chunks, from tar files, from disks and from object stores."""
