"""Stages of an audit, one per module. Stages exchange paths and keys, never tensors, and do not import each other."""
