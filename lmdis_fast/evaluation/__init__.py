"""Measuring a trained model: health of the landmarks, regression to annotated points, named protocols."""
