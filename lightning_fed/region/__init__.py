"""Regions: a coordinator that is a site of the coordinator above it."""
