"""What is best: objectives, the Pareto front, its hypervolume, and picking one trial from it. No torch here."""
