"""What ``lightning-fed doctor`` looks at, a file for each kind of question; only the last two of them need torch."""
