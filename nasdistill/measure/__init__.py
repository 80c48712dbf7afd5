"""Measuring a student: the artifact it is deployed as, its accuracy, its size."""
