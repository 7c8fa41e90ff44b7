"""Pages for people: self-contained HTML and the index that links it."""
