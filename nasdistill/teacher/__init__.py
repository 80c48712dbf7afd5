"""The teacher: reading its file safely, and its cached targets over the pool of views."""
