"""Lightning callbacks: the round loop, and what a plan or a user adds to it."""
