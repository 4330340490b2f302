"""How good a model is, and how sure that is: arithmetic on counts of scores. Nothing is trained, sent or read here."""
