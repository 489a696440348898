"""Files of others: text, JSON, YAML and pictures read within bounds, and folders written as a whole or not at all.

The lowest room. Whatever is wrong with a file comes out as one [`MVCustomError`] that names it.
"""
