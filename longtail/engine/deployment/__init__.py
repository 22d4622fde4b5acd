"""Deployment: post hoc methods, folding and export."""
