"""Demonstrations that import as ``examples.*`` from the repository's root.

A regular package and not a namespace: a dependency installs a package of the same name, and only a regular one that
comes earlier on the path wins over it.
"""
