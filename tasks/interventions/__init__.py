"""Interventions on image regions and phrases, and their statistics."""
