"""What an audit does, one stage a file. Stages hand over paths and keys, never tensors, and never import each other."""
