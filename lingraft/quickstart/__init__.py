"""The main job on an embedded default, end to end: `lingraft quickstart`."""
