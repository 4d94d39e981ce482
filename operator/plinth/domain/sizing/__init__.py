"""The shape of a replica: which splits the engine takes, what memory they leave, how fast they are, which is best."""
