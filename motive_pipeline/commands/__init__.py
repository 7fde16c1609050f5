"""The commands of ``motive`` that are more than a call of one function: their options and what they print."""
