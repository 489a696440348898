"""Training: subjects (stage 2) and the backbone's motion modules (stage 1)."""
