"""foveate: adapt CLIP from a few pictures, and keep its gaze on the object."""
