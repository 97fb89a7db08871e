"""The browser application: look into captioners, and intervene."""
