"""What happens once before the first trial: pools of views, the teacher's targets and figures, warmed supernets."""
