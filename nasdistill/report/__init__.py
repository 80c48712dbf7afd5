"""What a person sees of a run: the HTML report, the console tables and the live display."""
