"""Measurements beside a hand-written loop; ``make bench`` runs them all."""
